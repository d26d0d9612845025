"""Writes tests/schemas/azure-properties.json: properties of Azure's resources, and values that it
knows for them, by its SDKs.

    python -m venv sdks
    sdks/bin/pip install azure-mgmt-{appcontainers,authorization,containerregistry,keyvault} \
        azure-mgmt-{loganalytics,msi,network,postgresqlflexibleservers,privatedns,redisenterprise}
    sdks/bin/python scripts/azure_properties.py > tests/schemas/azure-properties.json

There is no Bicep compiler among Python's packages; the SDKs are made from the same descriptions.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from enum import Enum
from types import ModuleType
from typing import Any

# Resources of deploy/azure, with the package and the class of what is sent to create one.
RESOURCES = {
    "Microsoft.App/containerApps": ("appcontainers", "ContainerApp"),
    "Microsoft.App/jobs": ("appcontainers", "Job"),
    "Microsoft.App/managedEnvironments": ("appcontainers", "ManagedEnvironment"),
    "Microsoft.Authorization/roleAssignments": (
        "authorization.v2022_04_01",
        "RoleAssignmentCreateParameters",
    ),
    "Microsoft.Cache/redisEnterprise": ("redisenterprise", "Cluster"),
    "Microsoft.Cache/redisEnterprise/databases": ("redisenterprise", "Database"),
    "Microsoft.ContainerRegistry/registries": ("containerregistry", "Registry"),
    "Microsoft.DBforPostgreSQL/flexibleServers": ("postgresqlflexibleservers", "Server"),
    "Microsoft.DBforPostgreSQL/flexibleServers/databases": (
        "postgresqlflexibleservers",
        "Database",
    ),
    "Microsoft.KeyVault/vaults": ("keyvault", "VaultCreateOrUpdateParameters"),
    "Microsoft.KeyVault/vaults/secrets": ("keyvault", "SecretCreateOrUpdateParameters"),
    "Microsoft.ManagedIdentity/userAssignedIdentities": ("msi.v2024_11_30", "Identity"),
    "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials": (
        "msi.v2024_11_30",
        "FederatedIdentityCredential",
    ),
    "Microsoft.Network/privateDnsZones": ("privatedns", "PrivateZone"),
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks": ("privatedns", "VirtualNetworkLink"),
    "Microsoft.Network/privateEndpoints": ("network", "PrivateEndpoint"),
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups": ("network", "PrivateDnsZoneGroup"),
    "Microsoft.Network/virtualNetworks": ("network", "VirtualNetwork"),
    "Microsoft.OperationalInsights/workspaces": ("loganalytics", "Workspace"),
}
MAX_DEPTH = 6
ANY_NAME = "*"

Tree = dict[str, Any]


def properties(model: type, models: ModuleType, above: tuple[type, ...] = ()) -> Tree:
    """The names that a model has in JSON, each with those below it or with its known values."""
    if len(above) > MAX_DEPTH or model in above:
        return {}
    above = (*above, model)
    found: Tree = {}
    # Older SDKs have a table of attributes, newer ones a descriptor for each.
    given = inspect.signature(model).parameters if hasattr(model, "_attribute_map") else {}
    for attribute, described in getattr(model, "_attribute_map", {}).items():
        *path, name = described["key"].split(".")
        place = found
        for part in path:
            place = place.setdefault(part, {})
        kind = described["type"]
        if kind in ("str", "[str]") and attribute in given:
            # Enumerations are strings here; the constructor's types name them.
            kind = str(given[attribute].annotation)
        place[name] = below(kind, r"(\w+)", models, above)
    for ancestor in model.__mro__:
        for attribute, field in vars(ancestor).items():
            if type(field).__name__ == "_RestField":
                kind = str(ancestor.__annotations__[attribute])
                name = field._rest_name_input or attribute
                found[name] = below(kind, r"_models\.(\w+)", models, above)
    return found


def below(kind: str, pattern: str, models: ModuleType, above: tuple[type, ...]) -> Tree | list[str]:
    if kind.startswith("{") or "dict[" in kind.lower():
        return {ANY_NAME: {}}
    found: Tree = {}
    for name in re.findall(pattern, kind):
        model = getattr(models, name, None)
        if inspect.isclass(model) and issubclass(model, Enum):
            return sorted(value.value for value in model)
        if inspect.isclass(model) and model.__module__.startswith("azure."):
            found |= properties(model, models, above)
    return found


def main() -> None:
    made = {}
    for resource, (package, name) in RESOURCES.items():
        models = importlib.import_module(f"azure.mgmt.{package}.models")
        made[resource] = properties(getattr(models, name), models)
    lines = (
        f"{json.dumps(name)}: {json.dumps(tree, sort_keys=True)}" for name, tree in made.items()
    )
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
