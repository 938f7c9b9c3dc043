"""The ready sweeps' claims: what each sweep's record says of its claim, and the page of docs/results that says so."""
