"""The documentation as a site: `make docs` writes it into site/.

Which question it answers: what does the site have that docs/ has not?

    hooks.py      what MkDocs (mkdocs.yml) calls: adds pages, and leads links to them
    defenses.py   a page for each defense, of its file and of benchmarks/results
    notebooks.py  a page for each notebook in docs/notebooks
    reference.py  a page for each package, and one for the command line
    templates/    how these pages are laid out
    style.css     what the theme leaves to be said
"""
