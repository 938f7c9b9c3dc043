"""A sweep's report: one HTML page that says what the sweep found, and how sure that is.

`facts` reads, `stats` computes, `suggest` writes a new space, `retrain` trains again as lanes, `charts`, `page` and
`sections` say it, `write` puts it all together. `swathe.report` is the function that user code calls, and no module.
"""
