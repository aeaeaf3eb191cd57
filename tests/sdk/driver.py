"""Drives the published OpenGPU SDK for tests that are written in another language.

One JSON object per line. The first line in is `{"ready": {...}, "role": "client", "abis": "mainnet"}`, where `ready` is
what `rig devnet up --json` prints. Every further line is `{"run": "<python>", "with": {...}}`: the snippet runs with the
SDK's names and the given ones in scope, and its last expression is the answer, `{"value": ...}` or
`{"error": {"types": [...], "message": "..."}}`, most special type first.

The SDK itself is not touched: what stands here are the settings that its users may change (chain addresses, RPC), the
pin API's address, which it keeps in a module variable, and one shim for an argument name that web3 7 no longer knows.

In a value, an integer beyond 64 bits is a decimal string, an enum its name, bytes 0x-prefixed hex, a dataclass or
model an object, and a source, task, response, provider or master its address.
"""

import ast
import asyncio
import dataclasses
import enum
import importlib
import json
import os
import sys
import time

# Answers leave by a descriptor of their own, so that whatever the SDK prints cannot be taken for one.
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)


def point_sdk_at(ready, abis):
    """Makes every chain that the SDK knows be the one in `ready`."""
    import ogpu
    import ogpu.client
    from ogpu import ChainConfig, ChainId

    for chain in (ChainId.OGPU_TESTNET, ChainId.OGPU_MAINNET):
        names = ("NEXUS", "CONTROLLER", "TERMINAL", "VAULT")
        ChainConfig.CHAIN_CONTRACTS[chain] = {name: ready["contracts"][name] for name in names}
        # Testnet's Vault ABI lacks functions that mainnet's has; a test that wants to see that asks for it.
        ChainConfig.CHAIN_DIRECTORIES[chain] = abis
        ChainConfig.set_rpc(ready["rpc"], chain=chain)
    importlib.import_module("ogpu.ipfs.publish")._IPFS_PUBLISH_URL = ready["ipfs_publish"]


def mend_watchers():
    """The SDK's watchers say `fromBlock`, which web3 renamed to `from_block`; without this each of them raises."""
    from eth_utils import combomethod
    from web3.contract.async_contract import AsyncContractEvent

    original = AsyncContractEvent.__dict__["create_filter"].method

    async def create_filter(self, *, fromBlock=None, **arguments):
        if fromBlock is not None:
            arguments["from_block"] = fromBlock
        return await original(self, **arguments)

    AsyncContractEvent.create_filter = combomethod(create_filter)


def names_in_scope(ready):
    """What a snippet may use: the SDK by its public names, the accounts, and a way to follow a watcher."""
    import ogpu
    from ogpu import agent, client, events, protocol, types
    from web3 import Web3

    scope = {"ogpu": ogpu, "agent": agent, "client": client, "events": events, "time": time, "Web3": Web3}
    for module in (types, protocol, client, events):
        scope.update({name: getattr(module, name) for name in module.__all__})
    scope["KEY"] = {account["role"]: account["key"] for account in ready["accounts"]}
    scope["ADDRESS"] = {account["role"]: account["address"] for account in ready["accounts"]}
    scope["READY"] = ready
    scope["first_of"] = first_of
    scope["logs_of"] = logs_of
    return scope


def first_of(watcher, count, timeout_s=20):
    """The first `count` events of an SDK watcher."""
    from ogpu.events import _async_web3

    async def gather():
        found = []
        async for event in watcher:
            found.append(event)
            if len(found) == count:
                break
        await watcher.aclose()
        return found

    # The SDK caches a connection that belongs to the event loop of its first use.
    _async_web3._instances.clear()
    return asyncio.run(asyncio.wait_for(gather(), timeout_s))


def logs_of(receipt, abi_name):
    """The events that one contract told in a receipt, in order, as `{"event", "address", "args"}`."""
    from ogpu.protocol import load_contract
    from web3.logs import DISCARD

    contract = load_contract(abi_name)
    found = []
    for event in contract.events:
        for log in event().process_receipt({"logs": receipt.logs}, errors=DISCARD):
            if log["address"] != contract.address:
                continue  # the same event of another contract, such as a new source's OwnershipTransferred
            found.append((log["logIndex"], {"event": log["event"], "address": log["address"], "args": dict(log["args"])}))
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0])]


def plain(value):
    """`value` as JSON can say it; see the module's text."""
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, (bytes, bytearray)):
        return "0x" + bytes(value).hex()
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "items"):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "address"):
        return value.address
    return str(value)


def evaluate(snippet, scope):
    """Runs `snippet`; the value of its last line, if that is an expression."""
    tree = ast.parse(snippet)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<snippet>", "exec"), scope)
    return None if last is None else eval(compile(ast.Expression(last.value), "<snippet>", "eval"), scope)


def answer_to(order, scope):
    try:
        return {"value": plain(evaluate(order["run"], {**scope, **order["with"]}))}
    except Exception as error:
        types = [kind.__name__ for kind in type(error).__mro__]
        return {"error": {"types": types, "message": str(error)}}


def tell(answer):
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def main():
    opening = json.loads(sys.stdin.readline())
    ready = opening["ready"]
    for account in ready["accounts"]:
        if account["role"] == opening["role"]:
            os.environ[f"{opening['role'].upper()}_PRIVATE_KEY"] = account["key"]
    point_sdk_at(ready, opening["abis"])
    mend_watchers()
    scope = names_in_scope(ready)
    tell({"value": "ready"})
    for line in sys.stdin:
        tell(answer_to(json.loads(line), scope))


if __name__ == "__main__":
    main()
