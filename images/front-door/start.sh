#!/bin/sh
# Start nginx with the configuration that NGINX_CONF names. nginx does not read resolv.conf: @NAMESERVERS@ and @DOMAIN@ (the pod's own,
# NAMESPACE.svc.CLUSTER-DOMAIN) are filled in here, so that the rules hold in any namespace of any cluster.
set -eu
resolv=${RESOLV_CONF:-/etc/resolv.conf}
nameservers=$(awk '$1 == "nameserver" { printf "%s ", ($2 ~ /:/ ? "[" $2 "]" : $2) }' "$resolv")
domain=$(awk '$1 == "search" { print $2; exit }' "$resolv")
if [ -z "$nameservers" ] || [ -z "$domain" ]; then
    echo "error: $resolv names no nameserver or no search domain; run this in a pod whose dnsPolicy is ClusterFirst" >&2
    exit 4
fi
sed -e "s/@NAMESERVERS@/$nameservers/g" -e "s/@DOMAIN@/$domain/g" "$NGINX_CONF" >/tmp/nginx.conf
exec nginx -e stderr -c /tmp/nginx.conf -g 'daemon off;'
