from isotherm.predictor.serve import main

raise SystemExit(main())
