/** The API reference at /docs: Swagger UI from this build, so that no script of a third party runs with the API's origin. */

import SwaggerUI from "swagger-ui-dist/swagger-ui-es-bundle.js";
import "swagger-ui-dist/swagger-ui.css";

SwaggerUI({ url: "/openapi.json", dom_id: "#reference", deepLinking: true, validatorUrl: null });
