#!/bin/sh
# Start nginx with the configuration that NGINX_CONF names. nginx does not read resolv.conf: @NAMESERVERS@ and @DOMAIN@ (the pod's own,
# NAMESPACE.svc.CLUSTER-DOMAIN) are filled in here, so that the rules hold in any namespace of any cluster.
set -eu
nameservers=$(awk '$1 == "nameserver" { printf "%s ", ($2 ~ /:/ ? "[" $2 "]" : $2) }' /etc/resolv.conf)
domain=$(awk '$1 == "search" { print $2; exit }' /etc/resolv.conf)
if [ -z "$nameservers" ] || [ -z "$domain" ]; then
    echo "error: /etc/resolv.conf names no nameserver or no search domain; run this in a pod whose dnsPolicy is ClusterFirst" >&2
    exit 4
fi
sed -e "s/@NAMESERVERS@/$nameservers/g" -e "s/@DOMAIN@/$domain/g" "$NGINX_CONF" >/tmp/nginx.conf
exec nginx -e stderr -c /tmp/nginx.conf -g 'daemon off;'
