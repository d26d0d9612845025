"""Secrets in AWS Secrets Manager (`aws-sm://name`), by boto3 and its own configuration."""

from __future__ import annotations

from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from webapp.secrets_managers.reference import ManagerUnavailable, SecretError

CONFIG = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 2})
# boto3 reads the second one only; ECS and Lambda set the first one, as the other SDKs read it.
REGION = ("region", ["AWS_REGION", "AWS_DEFAULT_REGION"], None, None)
REASONS = {
    "ResourceNotFoundException": "was not found",
    "AccessDeniedException": "may not be read: allow this identity secretsmanager:GetSecretValue, "
    "and kms:Decrypt if the key is your own",
    "DecryptionFailure": "cannot be decrypted: allow this identity kms:Decrypt",
    "InvalidRequestException": "is being deleted, or has no value yet",
}


class Manager:
    def __init__(self) -> None:
        session = botocore.session.Session(session_vars={"region": REGION})
        self._session = boto3.Session(botocore_session=session)
        self._clients: dict[str | None, Any] = {}

    def read(self, name: str) -> str:
        region = name.split(":")[3] if name.startswith("arn:") else None
        try:
            if region not in self._clients:
                self._clients[region] = self._session.client(
                    "secretsmanager", region_name=region, config=CONFIG
                )
            answer = self._clients[region].get_secret_value(SecretId=name)
        except ClientError as error:
            raise _refusal(error) from None
        except NoRegionError:
            raise SecretError("needs a region: set AWS_REGION, or name it by its ARN") from None
        except NoCredentialsError:
            # It would never look for them again.
            self._clients.pop(region, None)
            raise ManagerUnavailable("cannot be read: no credentials of AWS were found") from None
        except BotoCoreError as error:
            raise ManagerUnavailable(f"cannot be reached ({type(error).__name__})") from None
        if "SecretString" in answer:
            return str(answer["SecretString"])
        return bytes(answer["SecretBinary"]).decode()


def _refusal(error: ClientError) -> SecretError:
    code = str(error.response["Error"].get("Code"))
    status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
    reason = REASONS.get(code) or (REASONS["AccessDeniedException"] if status == 403 else "")
    if reason:
        return SecretError(f"{reason} ({code})")
    if status >= 500 or "Throttl" in code:
        return ManagerUnavailable(f"cannot be reached ({code})")
    return SecretError(f"cannot be read ({code})")
