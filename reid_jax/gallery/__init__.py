"""A gallery to search: embeddings of known images on disk, asked with one crop.

| task | module |
|---|---|
| the gallery: open and ask; add, remove, expire, compact | `reader`; `gallery` |
| what an entry and an answer hold; filters | `entries`, `answers` |
| the model that a gallery belongs to | `binding` |
| rows and vectors: the interface, SQLite, PostgreSQL | `store`, `sql_store`, `sqlite_store`, `postgres_store` |
| exact search over a matrix in memory | `matrix`, `exact` |
| entries of features files, data sets and folders | `intake` |
| "nobody in the gallery": thresholds by false-match rate | `open_set` |
| proof that removed entries are gone | `erasure` |
| who asked what, and why | `audit` |
| the page of answers | `answer_page` |
"""
