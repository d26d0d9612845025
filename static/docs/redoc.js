// Starts ReDoc on the page's OpenAPI document.
const page = document.getElementById("redoc");

Redoc.init(
  page.dataset.openapiUrl,
  {
    // Its search runs in a worker from a blob, which the page's Content-Security-Policy forbids.
    disableSearch: true,
    hideDownloadButton: true,
    theme: { typography: { fontFamily: "system-ui, sans-serif", headings: { fontFamily: "system-ui, sans-serif" } } },
  },
  page,
);
