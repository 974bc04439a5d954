"""A gallery in the browser: `search.py serve`.

| module | job |
|---|---|
| `bounded_server` | sockets, with bounds on connections, seconds and bytes |
| `web_request` | a request as it came in, its parameters, and the refusals |
| `access` | names of hosts, other sites, tokens |
| `search_api` | the actions: search, explain, add, remove; each a JSON object |
| `image_engine` | the model behind them |
| `retention` | removes what has expired while the server runs |
| `search_page` | the page: one HTML file that loads nothing from elsewhere |

Built on the standard library's `http.server` and `socketserver`: no further package, nothing that listens, stores or
reports by default, and each limit is in our own code. What a framework would bring (routing, forms, templates) is not
needed for seven addresses, and an image travels as the whole body, not as a part of a form.
"""
