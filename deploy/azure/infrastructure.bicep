// What Weir needs in a resource group of Azure: network, registry, secrets, PostgreSQL, Redis, and
// the environment of its Container App (app.bicep). deploy/azure/setup.sh deploys it.

@description('Where all of it is.')
param location string = resourceGroup().location

@description('Begins the names of what must be unique in the world: lower-case letters and digits.')
@minLength(3)
@maxLength(11)
param prefix string = 'weir'

@description('Of PostgreSQL. Given at the first deployment only; so are the other secrets.')
@secure()
param databasePassword string = ''

@secure()
param secretKey string = ''

@secure()
param adminPassword string = ''

@description('name:tier:key of the smoke test.')
@secure()
param apiKeys string = ''

@description('Empty: Weir answers offline.')
@secure()
param openaiApiKey string = ''

param databaseSku object = {
  name: 'Standard_B2s'
  tier: 'Burstable'
}

param databaseStorageGb int = 32

@description('ZoneRedundant needs a tier other than Burstable.')
@allowed(['Disabled', 'SameZone', 'ZoneRedundant'])
param databaseHighAvailability string = 'Disabled'

@description('Up to Balanced_B20 can do without a cluster.')
param redisSku string = 'Balanced_B0'

@allowed(['Disabled', 'Enabled'])
param redisHighAvailability string = 'Disabled'

@description('Of the log.')
param retentionDays int = 30

var unique = '${prefix}${take(uniqueString(resourceGroup().id), 8)}'
var acrPull = '7f951dda-4ed3-4680-a7ca-43fe172d538d'
var secretsUser = '4633458b-17de-408a-b874-0445c86b69e6'

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: 'weir'
  location: location
}

resource network 'Microsoft.Network/virtualNetworks@2024-05-01' = {
  name: 'weir'
  location: location
  properties: {
    addressSpace: {
      addressPrefixes: ['10.8.0.0/16']
    }
    subnets: [
      {
        name: 'apps'
        properties: {
          addressPrefix: '10.8.0.0/23'
          delegations: [
            {
              name: 'apps'
              properties: {
                serviceName: 'Microsoft.App/environments'
              }
            }
          ]
        }
      }
      {
        name: 'database'
        properties: {
          addressPrefix: '10.8.2.0/28'
          delegations: [
            {
              name: 'database'
              properties: {
                serviceName: 'Microsoft.DBforPostgreSQL/flexibleServers'
              }
            }
          ]
        }
      }
      {
        name: 'endpoints'
        properties: {
          addressPrefix: '10.8.3.0/28'
        }
      }
    ]
  }

  resource apps 'subnets' existing = {
    name: 'apps'
  }

  resource databaseSubnet 'subnets' existing = {
    name: 'database'
  }

  resource endpoints 'subnets' existing = {
    name: 'endpoints'
  }
}

resource registry 'Microsoft.ContainerRegistry/registries@2025-11-01' = {
  name: unique
  location: location
  sku: {
    name: 'Basic'
  }
  properties: {
    adminUserEnabled: false
  }
}

resource pull 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(registry.id, identity.id, acrPull)
  scope: registry
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', acrPull)
  }
}

// Reachable from outside, so that people can rotate a secret; who may read it, roles say.
resource vault 'Microsoft.KeyVault/vaults@2024-11-01' = {
  name: unique
  location: location
  properties: {
    tenantId: subscription().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 7
  }
}

resource read 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault.id, identity.id, secretsUser)
  scope: vault
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsUser)
  }
}

resource databaseUrlSecret 'Microsoft.KeyVault/vaults/secrets@2024-11-01' = if (!empty(databasePassword)) {
  parent: vault
  name: 'weir-database-url'
  properties: {
    value: 'postgresql://weir:${databasePassword}@${server.properties.fullyQualifiedDomainName}:5432/weir?sslmode=verify-full&sslrootcert=/etc/ssl/certs/ca-certificates.crt'
  }
}

// Written anew by each deployment, so that a deployment takes up a key that was regenerated.
resource redisUrlSecret 'Microsoft.KeyVault/vaults/secrets@2024-11-01' = {
  parent: vault
  name: 'weir-redis-url'
  properties: {
    value: 'rediss://:${uriComponent(cache.listKeys().primaryKey)}@${redis.properties.hostName}:10000/0'
  }
}

resource secretKeySecret 'Microsoft.KeyVault/vaults/secrets@2024-11-01' = if (!empty(secretKey)) {
  parent: vault
  name: 'weir-secret-key'
  properties: {
    value: secretKey
  }
}

resource adminPasswordSecret 'Microsoft.KeyVault/vaults/secrets@2024-11-01' = if (!empty(adminPassword)) {
  parent: vault
  name: 'weir-admin-password'
  properties: {
    value: adminPassword
  }
}

resource apiKeysSecret 'Microsoft.KeyVault/vaults/secrets@2024-11-01' = if (!empty(apiKeys)) {
  parent: vault
  name: 'weir-api-keys'
  properties: {
    value: apiKeys
  }
}

resource openaiApiKeySecret 'Microsoft.KeyVault/vaults/secrets@2024-11-01' = if (!empty(openaiApiKey)) {
  parent: vault
  name: 'weir-openai-api-key'
  properties: {
    value: openaiApiKey
  }
}

resource databaseZone 'Microsoft.Network/privateDnsZones@2024-06-01' = {
  name: '${unique}.private.postgres.database.azure.com'
  location: 'global'
}

resource databaseLink 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01' = {
  parent: databaseZone
  name: 'weir'
  location: 'global'
  properties: {
    registrationEnabled: false
    virtualNetwork: {
      id: network.id
    }
  }
}

resource server 'Microsoft.DBforPostgreSQL/flexibleServers@2025-08-01' = {
  name: unique
  location: location
  sku: databaseSku
  properties: {
    version: '17'
    administratorLogin: 'weir'
    administratorLoginPassword: empty(databasePassword) ? null : databasePassword
    storage: {
      storageSizeGB: databaseStorageGb
      autoGrow: 'Enabled'
    }
    backup: {
      backupRetentionDays: 7
      geoRedundantBackup: 'Disabled'
    }
    highAvailability: {
      mode: databaseHighAvailability
    }
    network: {
      delegatedSubnetResourceId: network::databaseSubnet.id
      privateDnsZoneArmResourceId: databaseZone.id
    }
  }
  dependsOn: [databaseLink]
}

resource database 'Microsoft.DBforPostgreSQL/flexibleServers/databases@2025-08-01' = {
  parent: server
  name: 'weir'
  properties: {
    charset: 'UTF8'
  }
}

resource redis 'Microsoft.Cache/redisEnterprise@2025-07-01' = {
  name: unique
  location: location
  sku: {
    name: redisSku
  }
  properties: {
    highAvailability: redisHighAvailability
    minimumTlsVersion: '1.2'
    publicNetworkAccess: 'Disabled'
  }
}

resource cache 'Microsoft.Cache/redisEnterprise/databases@2025-07-01' = {
  parent: redis
  name: 'default'
  properties: {
    accessKeysAuthentication: 'Enabled'
    clientProtocol: 'Encrypted'
    clusteringPolicy: 'NoCluster'
    evictionPolicy: 'VolatileLRU'
    port: 10000
  }
}

resource redisEndpoint 'Microsoft.Network/privateEndpoints@2024-05-01' = {
  name: 'weir-redis'
  location: location
  properties: {
    subnet: {
      id: network::endpoints.id
    }
    privateLinkServiceConnections: [
      {
        name: 'weir-redis'
        properties: {
          privateLinkServiceId: redis.id
          groupIds: ['redisEnterprise']
        }
      }
    ]
  }

  resource names 'privateDnsZoneGroups' = {
    name: 'default'
    properties: {
      privateDnsZoneConfigs: [
        {
          name: 'redis'
          properties: {
            privateDnsZoneId: redisZone.id
          }
        }
      ]
    }
  }
}

resource redisZone 'Microsoft.Network/privateDnsZones@2024-06-01' = {
  name: 'privatelink.redis.azure.net'
  location: 'global'
}

resource redisLink 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01' = {
  parent: redisZone
  name: 'weir'
  location: 'global'
  properties: {
    registrationEnabled: false
    virtualNetwork: {
      id: network.id
    }
  }
}

resource logs 'Microsoft.OperationalInsights/workspaces@2025-07-01' = {
  name: 'weir'
  location: location
  properties: {
    retentionInDays: retentionDays
    sku: {
      name: 'PerGB2018'
    }
  }
}

resource containerEnvironment 'Microsoft.App/managedEnvironments@2026-01-01' = {
  name: 'weir'
  location: location
  properties: {
    appLogsConfiguration: {
      destination: 'log-analytics'
      logAnalyticsConfiguration: {
        customerId: logs.properties.customerId
        sharedKey: logs.listKeys().primarySharedKey
      }
    }
    vnetConfiguration: {
      infrastructureSubnetId: network::apps.id
      internal: false
    }
    workloadProfiles: [
      {
        name: 'Consumption'
        workloadProfileType: 'Consumption'
      }
    ]
  }
}

output registryName string = registry.name
output vaultName string = vault.name
