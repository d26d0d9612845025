// The identity with which deploy.yml deploys new versions of app.bicep: it trusts one environment of
// one repository on GitHub, and may push images and change the app and its migration.

param location string = resourceGroup().location

@description('The registry, as infrastructure.bicep has named it.')
param registryName string

@description('OWNER and NAME of the repository, and the ids of both.')
param owner string
param ownerId int
param repository string
param repositoryId int

@description('The environment in the repository: staging or production.')
param environment string

var issuer = 'https://token.actions.githubusercontent.com'
var acrPush = '8311e382-0749-4cb8-b61a-304f252e45ec'
var appsContributor = '358470bc-b998-42bd-ab17-a7e34c199c0f'
var jobsContributor = '4e3d2b60-56ae-4dc6-a233-09c8e5a82e68'
var identityOperator = 'f1a07417-d97a-45cb-824c-7a7467783830'

resource github 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: 'weir-github'
  location: location
}

resource named 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2024-11-30' = {
  parent: github
  name: 'names'
  properties: {
    issuer: issuer
    subject: 'repo:${owner}/${repository}:environment:${environment}'
    audiences: ['api://AzureADTokenExchange']
  }
}

// Repositories made since 2026-07-15 have the ids in it. Azure makes one credential at a time.
resource numbered 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2024-11-30' = {
  parent: github
  name: 'ids'
  properties: {
    issuer: issuer
    subject: 'repo:${owner}@${ownerId}/${repository}@${repositoryId}:environment:${environment}'
    audiences: ['api://AzureADTokenExchange']
  }
  dependsOn: [named]
}

resource registry 'Microsoft.ContainerRegistry/registries@2025-11-01' existing = {
  name: registryName
}

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: 'weir'
}

resource containerEnvironment 'Microsoft.App/managedEnvironments@2026-01-01' existing = {
  name: 'weir'
}

resource app 'Microsoft.App/containerApps@2026-01-01' existing = {
  name: 'weir'
}

resource migrate 'Microsoft.App/jobs@2026-01-01' existing = {
  name: 'weir-migrate'
}

resource push 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(registry.id, github.id, acrPush)
  scope: registry
  properties: {
    principalId: github.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', acrPush)
  }
}

resource deploy 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(app.id, github.id, appsContributor)
  scope: app
  properties: {
    principalId: github.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', appsContributor)
  }
}

resource migrateIt 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(migrate.id, github.id, jobsContributor)
  scope: migrate
  properties: {
    principalId: github.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', jobsContributor)
  }
}

// Who changes an app must be allowed to place it in its environment, and to give it its identity.
resource place 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(containerEnvironment.id, github.id, appsContributor)
  scope: containerEnvironment
  properties: {
    principalId: github.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', appsContributor)
  }
}

resource assign 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(identity.id, github.id, identityOperator)
  scope: identity
  properties: {
    principalId: github.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', identityOperator)
  }
}

output client string = github.properties.clientId
output tenant string = github.properties.tenantId
output subscription string = subscription().subscriptionId
