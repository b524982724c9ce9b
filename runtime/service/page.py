"""The page at /docs: routes, limits and curl commands of the running service. No script, nothing from elsewhere."""

from html import escape
from string import Template
from typing import Final

from tokfilter.runtime.service.limits import Limits

__all__ = ["page"]

_PAGE: Final = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>tokfilter: $model</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em }
pre { background: #f2f2f2; padding: 0.8em; overflow-x: auto }
th, td { text-align: left; padding: 0.2em 1em 0.2em 0; vertical-align: top }
</style></head><body>
<h1>$model</h1>
<p>Send a JPEG or PNG file, get its $what.</p>
<pre>curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' $authorization'$url$route?keep=0.5$top'</pre>
<table>
<tr><th>keep</th><td>tokens to keep: a ratio (0.5, 50%) or a count (98 or 98t). Default: the model's own.</td></tr>
$top_row</table>
<p>The answer: <code>$answer</code>.
An error has a status and <code>{"detail": message}</code>.</p>
<h2>Limits</h2>
<table>
<tr><th>413</th><td>files above $megabytes MB, images above $megapixels million pixels</td></tr>
<tr><th>408</th><td>bodies that take longer than $body_s s, heads that take longer than $header_s s</td></tr>
<tr><th>431</th><td>heads above $header_bytes bytes</td></tr>
<tr><th>503</th><td>more than $admitted requests in flight, with <code>Retry-After</code></td></tr>
</table>
<h2>Other routes</h2>
<pre>curl $url/health/live
curl $url/health/ready
curl $authorization$url/metrics
curl $authorization$url/openapi.json</pre>
</body></html>
""")


_TOP_ROW: Final = "<tr><th>top</th><td>number of classes in the answer, 1 to 1000. Default: 5.</td></tr>\n"


def page(model: str, url: str, limits: Limits, token: bool, route: str = "/classify") -> str:
    """The page in HTML.

    model: name of the architecture
    url: under which the client reached the service, without a slash at the end
    token: whether requests need one
    route: /classify, or /embed of a model that gives embeddings
    """
    classes = route == "/classify"
    top = '"top": [{"class": ..., "index": ..., "score": ...}, ...]'
    return _PAGE.substitute(
        model=escape(model),
        what="class" if classes else "embedding",
        route=route,
        top="&amp;top=5" if classes else "",
        top_row=_TOP_ROW if classes else "",
        answer=f'{{"class": ..., "tokens": ..., {top}}}' if classes else '{"embedding": [...], "tokens": ...}',
        url=escape(url, quote=True),
        authorization='-H "Authorization: Bearer $(cat token)" ' if token else "",
        megabytes=f"{limits.body_bytes / 1e6:g}",
        megapixels=f"{limits.pixels / 1e6:g}",
        body_s=f"{limits.body_s:g}",
        header_s=f"{limits.header_s:g}",
        header_bytes=limits.header_bytes,
        admitted=limits.admitted,
    )
