"""`flask accounts create|list|show|set-password|set-role|disable|enable|sign-out`."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from webapp.accounts.accounts import MEMBER, ROLES, Account
from webapp.cli.ready import ACTOR, ready, show
from webapp.errors import NotFound
from webapp.services import services

group = AppGroup("accounts", help="Manage accounts.")

# From a prompt or WEIR_PASSWORD: an argument would be visible in the process list.
password_option = click.password_option("--password", envvar="WEIR_PASSWORD")


@group.command("create")
@click.argument("username")
@click.option("--role", default=MEMBER, show_default=True, type=click.Choice(ROLES))
@click.option("--tier", default="free", show_default=True, help="A tier of TIERS.")
@password_option
@ready
def create(username: str, role: str, tier: str, password: str) -> None:
    """Create an account."""
    show(services().accounts.create(ACTOR, username, password, role=role, tier=tier).to_dict())


@group.command("list")
@ready
def list_all() -> None:
    """List all accounts."""
    click.echo(f"{'id':>4}  {'role':<8}{'tier':<12}{'state':<10}username")
    for account in services().accounts.all():
        state = "disabled" if account.disabled_at else "enabled"
        click.echo(
            f"{account.id:>4}  {account.role:<8}{account.key.tier:<12}{state:<10}{account.username}"
        )


@group.command("show")
@click.argument("username")
@ready
def show_one(username: str) -> None:
    """Show one account."""
    show(_named(username).to_dict())


@group.command("set-password")
@click.argument("username")
@password_option
@ready
def set_password(username: str, password: str) -> None:
    """Set the password of an account. Revokes all of its tokens."""
    services().accounts.set_password(ACTOR, _named(username).id, password)
    click.echo(f"Password of {username} changed. All of its tokens are revoked.")


@group.command("set-role")
@click.argument("username")
@click.argument("role", type=click.Choice(ROLES))
@ready
def set_role(username: str, role: str) -> None:
    """Set the role of an account: admin or member."""
    show(services().accounts.change(ACTOR, _named(username).id, {"role": role}).to_dict())


@group.command("disable")
@click.argument("username")
@ready
def disable(username: str) -> None:
    """Disable an account: it cannot sign in; its tokens and the keys it owns are refused."""
    services().accounts.change(ACTOR, _named(username).id, {"disabled": True})
    click.echo(f"Account {username} disabled. Its tokens and keys are refused within 5 seconds.")


@group.command("enable")
@click.argument("username")
@ready
def enable(username: str) -> None:
    """Enable a disabled account. Keys that it owns work again."""
    services().accounts.change(ACTOR, _named(username).id, {"disabled": False})
    click.echo(f"Account {username} enabled.")


@group.command("sign-out")
@click.argument("username")
@ready
def sign_out(username: str) -> None:
    """Revoke all tokens of an account."""
    services().accounts.sign_out(ACTOR, _named(username).id)
    click.echo(f"All tokens of {username} are refused within 5 seconds.")


def _named(username: str) -> Account:
    account = services().accounts.find(username)
    if account is None:
        raise NotFound(f"Account {username!r} not found.")
    return account
