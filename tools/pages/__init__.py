"""Self-contained HTML pages: a shell, tables, charts and pictures; imports only runtime/ and data_utils/.

Whatever is not `Markup` is text and gets escaped: captions and file names are other people's.

    page = Page("Audit", lead="5,006 pictures")
    page.section("Worst pairs", "In order of suspicion.", table(("pair", "caption"), rows, caption="Pairs"))
    page.write(Path("audit.html"))
"""
