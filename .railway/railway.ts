// The whole project on Railway, for `railway config plan` and `railway config apply`.
// A service that railway.json manages cannot be managed from here: see docs/deploying/railway.md.
import { defineRailway, github, postgres, preserve, project, redis, service } from "railway/iac";

export default defineRailway(() => {
  const database = postgres("weir-database");
  const cache = redis("weir-cache");

  const weir = service("weir", {
    source: github("YOUR-ORG/weir"),
    build: { builder: "RAILPACK" },
    deploy: {
      preDeployCommand: ["flask db upgrade"],
      startCommand: "gunicorn --config gunicorn.conf.py",
      healthcheckPath: "/readiness",
      healthcheckTimeout: 120,
      restartPolicyType: "ON_FAILURE",
      restartPolicyMaxRetries: 10,
      drainingSeconds: 30,
    },
    env: {
      APP_ENV: "production",
      // Railway's edge is the one proxy in front.
      TRUSTED_PROXIES: "1",
      // The builder's, not Weir's.
      RAILPACK_PYTHON_VERSION: "3.13",
      DATABASE_URL: database.env.DATABASE_URL,
      REDIS_URL: cache.env.REDIS_URL,
      // Set in Railway, never here.
      SECRET_KEY: preserve(),
      ADMIN_PASSWORD: preserve(),
      OPENAI_API_KEY: preserve(),
      OPENAI_BASE_URL: preserve(),
    },
  });

  // Runs the lines of batches and jobs, so that the service above need not. It may be left out.
  const worker = service("weir-worker", {
    source: github("YOUR-ORG/weir"),
    build: { builder: "RAILPACK" },
    deploy: {
      startCommand: "flask worker",
      restartPolicyType: "ALWAYS",
      drainingSeconds: 30,
    },
    // The service's above: what is added there is added here as well.
    env: {
      APP_ENV: "production",
      RAILPACK_PYTHON_VERSION: "3.13",
      DATABASE_URL: database.env.DATABASE_URL,
      REDIS_URL: cache.env.REDIS_URL,
      SECRET_KEY: weir.env.SECRET_KEY,
      ADMIN_PASSWORD: weir.env.ADMIN_PASSWORD,
      OPENAI_API_KEY: weir.env.OPENAI_API_KEY,
      OPENAI_BASE_URL: weir.env.OPENAI_BASE_URL,
    },
  });

  return project("weir", { resources: [database, cache, weir, worker] });
});
