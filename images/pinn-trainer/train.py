from isotherm.pinn.train import main

raise SystemExit(main())
