"""Follows Realtime with PyPI's realtime, as follow.mjs does with supabase-js: the same arguments and commands."""

import asyncio
import json
import sys

from realtime import AsyncRealtimeClient

url, key, token, heartbeat_ms = sys.argv[1:]
channels = {}


def tell(**what):
    print(json.dumps(what), flush=True)


async def join(client, command):
    topic = command["topic"]
    channel = client.channel(topic, {"config": command.get("config") or {}})
    channels[topic] = channel
    channel.on_broadcast("*", lambda message: tell(topic=topic, **{n: message.get(n) for n in ("event", "payload", "meta")}))
    channel.on_system(lambda system: tell(topic=topic, system=dict(system)))
    for change in command.get("changes", []):
        channel.on_postgres_changes(
            change["event"],
            lambda row: tell(
                topic=topic,
                change=row["data"]["type"],
                new=row["data"].get("record"),
                old=row["data"].get("old_record"),
                errors=row["data"].get("errors"),
            ),
            table=change["table"],
            filter=change.get("filter"),
        )
    if command.get("presence"):
        channel.on_presence_sync(lambda: tell(topic=topic, present=channel.presence_state()))
    await channel.subscribe(lambda status, error: tell(topic=topic, status=status.value, error=error and str(error)))


async def perform(client, command):
    channel = channels.get(command.get("topic"))
    match command["do"]:
        case "join":
            await join(client, command)
        case "token":
            await client.set_auth(command["token"])
        case "send":
            await channel.send_broadcast(command["event"], command["payload"])
        case "track":
            await channel.track(command["payload"])
        case "untrack":
            await channel.untrack()
        case "leave":
            await client.remove_channel(channel)


async def main():
    client = AsyncRealtimeClient(f"{url}/realtime/v1", key, initial_backoff=0.05, hb_interval=int(heartbeat_ms) // 1000)
    await client.connect()
    if token:
        await client.set_auth(token)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asyncio.create_task(perform(client, json.loads(line)))


asyncio.run(main())
