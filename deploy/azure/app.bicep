// Weir on Azure Container Apps, and the job that migrates its database, on infrastructure.bicep.
// Once it serves, canary.sh deploys new versions; this file is deployed again to change settings.

param location string = resourceGroup().location

@description('The image with its tag: REGISTRY.azurecr.io/weir:TAG.')
param image string

@description('The registry and the vault, as infrastructure.bicep has named them.')
param registryName string
param vaultName string

@description('Whether the vault holds weir-openai-api-key.')
param withOpenai bool = true

@description('At most 10 connections to PostgreSQL each: the server must have room for them.')
param maxReplicas int = 10

@description('Which revisions get the traffic. By default the newest one.')
param traffic array = [
  {
    latestRevision: true
    weight: 100
  }
]

@description('Of your own, as `az containerapp hostname bind` has made them.')
param customDomains array = []

var secrets = 'azure-kv://${vaultName}'
var provider = [
  {
    name: 'OPENAI_API_KEY'
    value: '${secrets}/weir-openai-api-key'
  }
]
// Weir reads these secrets itself: a new value needs no restart.
var settings = concat(
  [
    {
      name: 'APP_ENV'
      value: 'production'
    }
    {
      name: 'TRUSTED_PROXIES'
      value: '1'
    }
    {
      name: 'SHUTDOWN_GRACE'
      value: '240'
    }
    {
      name: 'SECRET_KEY'
      value: '${secrets}/weir-secret-key'
    }
    {
      name: 'ADMIN_PASSWORD'
      value: '${secrets}/weir-admin-password'
    }
    {
      name: 'DATABASE_URL'
      value: '${secrets}/weir-database-url'
    }
    {
      name: 'REDIS_URL'
      value: '${secrets}/weir-redis-url'
    }
    {
      name: 'API_KEYS'
      value: '${secrets}/weir-api-keys'
    }
    // Which identity reads the secrets.
    {
      name: 'AZURE_CLIENT_ID'
      value: identity.properties.clientId
    }
  ],
  withOpenai ? provider : []
)

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: 'weir'
}

resource containerEnvironment 'Microsoft.App/managedEnvironments@2026-01-01' existing = {
  name: 'weir'
}

resource registry 'Microsoft.ContainerRegistry/registries@2025-11-01' existing = {
  name: registryName
}

resource migrate 'Microsoft.App/jobs@2026-01-01' = {
  name: 'weir-migrate'
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identity.id}': {}
    }
  }
  properties: {
    environmentId: containerEnvironment.id
    configuration: {
      triggerType: 'Manual'
      replicaTimeout: 600
      replicaRetryLimit: 1
      manualTriggerConfig: {
        parallelism: 1
        replicaCompletionCount: 1
      }
      registries: [
        {
          server: registry.properties.loginServer
          identity: identity.id
        }
      ]
    }
    template: {
      containers: [
        {
          name: 'weir'
          image: image
          command: ['flask']
          args: ['db', 'upgrade']
          env: settings
          resources: {
            cpu: json('0.5')
            memory: '1Gi'
          }
        }
      ]
    }
  }
}

resource app 'Microsoft.App/containerApps@2026-01-01' = {
  name: 'weir'
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identity.id}': {}
    }
  }
  properties: {
    environmentId: containerEnvironment.id
    configuration: {
      activeRevisionsMode: 'Multiple'
      maxInactiveRevisions: 10
      ingress: {
        external: true
        targetPort: 8000
        transport: 'http'
        allowInsecure: false
        traffic: traffic
        customDomains: customDomains
      }
      registries: [
        {
          server: registry.properties.loginServer
          identity: identity.id
        }
      ]
    }
    template: {
      // The ingress ends what takes longer than 240 s: so a deployment cuts off nothing.
      terminationGracePeriodSeconds: 250
      containers: [
        {
          name: 'weir'
          image: image
          env: settings
          resources: {
            cpu: json('0.5')
            memory: '1Gi'
          }
          probes: [
            {
              type: 'Startup'
              httpGet: {
                path: '/readiness'
                port: 8000
              }
              periodSeconds: 6
              timeoutSeconds: 5
              failureThreshold: 10
            }
            {
              type: 'Readiness'
              httpGet: {
                path: '/readiness'
                port: 8000
              }
              periodSeconds: 5
              timeoutSeconds: 5
              failureThreshold: 3
            }
            {
              type: 'Liveness'
              httpGet: {
                path: '/liveness'
                port: 8000
              }
              periodSeconds: 10
              timeoutSeconds: 5
              failureThreshold: 3
            }
          ]
        }
      ]
      scale: {
        minReplicas: 1
        maxReplicas: maxReplicas
        rules: [
          {
            name: 'requests'
            http: {
              metadata: {
                concurrentRequests: '50'
              }
            }
          }
          {
            name: 'cpu'
            custom: {
              type: 'cpu'
              metadata: {
                type: 'Utilization'
                value: '70'
              }
            }
          }
        ]
      }
    }
  }
}

output address string = 'https://${app.properties.configuration.ingress.fqdn}'
