// Starts Swagger UI on the page's OpenAPI document.
const page = document.getElementById("swagger");

SwaggerUIBundle({
  url: page.dataset.openapiUrl,
  domNode: page,
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: true,
  tryItOutEnabled: true,
  // The validator's badge would be fetched from another host.
  validatorUrl: null,
});
