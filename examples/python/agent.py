"""A resident agent beside the ledger, as examples/javascript/agent.mjs: the ledger bets, and this program makes no bet.

It hears what became of deposits, says that its agent is there, sends signals, and hears those of others. README.md
explains it.
"""

import asyncio
import base64
import datetime
import json
import os
import random
import sys
import time

import httpx
from realtime import AsyncRealtimeClient

HEARTBEAT_S = 10
LOOK_BACK_IDS = 1000  # a row may be committed after one with a higher id
SEEN_LIMIT = 5000  # executed results: more than LOOK_BACK_IDS, or an old one would come twice
REFRESH_BEFORE_S = 300  # a token is refreshed so long before it expires


def tell(what, **details):
    """Prints a line of JSON."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    print(json.dumps({"at": now, "what": what, **details}), flush=True)


class Session:
    """The owner's sign-in, and the database's API with it."""

    def __init__(self, url, key):
        self.url, self.key = url, key
        self.http = httpx.AsyncClient(timeout=10)
        self.token, self.refresh_token = os.environ.get("SUPABASE_ACCESS_TOKEN"), None

    async def sign_in(self):
        if not self.token:
            await self._grant("password", email=os.environ["SUPABASE_EMAIL"], password=os.environ["SUPABASE_PASSWORD"])

    async def _grant(self, kind, **body):
        reply = await self.http.post(
            f"{self.url}/auth/v1/token", params={"grant_type": kind}, json=body, headers={"apikey": self.key})
        reply.raise_for_status()
        self.token, self.refresh_token = reply.json()["access_token"], reply.json()["refresh_token"]

    def claims(self):
        payload = self.token.split(".")[1]
        return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))

    async def refresh(self):
        """Refreshes a token that ends soon. Gives whether there is another one."""
        if not self.refresh_token or self.claims()["exp"] - time.time() > REFRESH_BEFORE_S:
            return False
        await self._grant("refresh_token", refresh_token=self.refresh_token)
        return True

    async def call(self, method, path, **arguments):
        headers = {"apikey": self.key, "authorization": f"Bearer {self.token}"}
        reply = await self.http.request(method, f"{self.url}/rest/v1/{path}", headers=headers, **arguments)
        reply.raise_for_status()
        return reply.json()


class State:
    """The state survives the end of this program: the highest id that it has read, and the results that it has taken."""

    def __init__(self, file):
        self.file, self.last, self.seen = file, 0, {}
        if os.path.exists(file):
            with open(file) as kept:
                kept = json.load(kept)
            self.last, self.seen = kept["last"], dict.fromkeys(kept["seen"])

    def save(self):
        """A crash leaves the old file or the new one."""
        with open(f"{self.file}.new", "w") as new:
            # Only rows of executed results are read again.
            executed = [key for key in self.seen if key.endswith(" executed")]
            json.dump({"last": self.last, "seen": executed[-SEEN_LIMIT:]}, new)
        os.replace(f"{self.file}.new", self.file)

    def take(self, result):
        """Takes a result once. Your own work belongs here."""
        key = f"{result['reference']} {result['state']}"
        if key not in self.seen:
            self.seen[key] = None
            names = ("reference", "agent_id", "state", "game", "wager", "payout", "outcome", "reason")
            tell("result", **{name: result.get(name) for name in names})


async def catch_up(session, state):
    """Reads what came while nobody listened."""
    after = state.last - LOOK_BACK_IDS
    while True:
        query = {"select": "*", "id": f"gt.{after}", "order": "id", "limit": 1000}
        rows = await session.call("GET", "trade_results", params=query)
        if not rows:
            break
        for row in rows:
            state.take({**row, "state": "executed"})
        after = rows[-1]["id"]
        state.last = max(state.last, after)
    state.save()
    tell("caught_up", last=state.last)


async def keep(client, session, topic, config, listen, joined):
    """Keeps a private channel joined for ever, and calls `joined` after each join."""
    rejoin_s = float(os.environ.get("REJOIN_MS", "5000")) / 1000
    while True:
        channel = client.channel(topic, {"config": {"private": True, **config}})
        listen(channel)
        states = asyncio.Queue()
        try:
            await channel.subscribe(lambda status, error: states.put_nowait((status.value, error)))
            while (now := await states.get())[0] == "SUBSCRIBED":
                tell("joined", topic=topic)
                await joined(channel)
            tell("left", topic=topic, status=now[0], why=now[1] and str(now[1]))
        except Exception as error:  # a reply that was lost, or a table that cannot be read now
            tell("failed", topic=topic, why=str(error))
        await asyncio.sleep(rejoin_s * (1 + random.random()))
        # A refused channel stalls all channels of its socket, so it is removed before the next try.
        try:
            await client.remove_channel(channel)
            await client.connect()
            await client.set_auth(session.token)
        except Exception as error:
            tell("failed", topic=topic, why=str(error))


async def heartbeats(client, session, agent_id):
    """Tells the database that the agent is there, learns of its task, and keeps the token fresh."""
    task = None
    while True:
        try:
            if await session.refresh():
                await client.set_auth(session.token)
            body = {"agent_id": agent_id, "task": os.environ.get("AGENT_TASK")}
            agent = await session.call("POST", "rpc/heartbeat", json=body)
            if agent["task"] != task:
                task = agent["task"]
                tell("task", task=task, task_state=agent["task_state"])
        except Exception as error:
            tell("failed", why=f"heartbeat: {error}")
        await asyncio.sleep(HEARTBEAT_S)


async def send_signals(channels):
    """A line of standard input is a signal. The topic proves its sender; `ts` makes a repeat another signal."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            signal = {"ts": datetime.datetime.now(datetime.UTC).isoformat(), **json.loads(line)}
            await channels["signals"].send_broadcast("trade_signal", signal)
            tell("sent", sent="ok", signal=signal)
        except Exception as error:
            tell("failed", why=f"{line.strip()}: {error!r}")


async def main():
    names = ("SUPABASE_URL", "SUPABASE_KEY", "AGENT_ID")
    signs_in = "SUPABASE_ACCESS_TOKEN" in os.environ or {"SUPABASE_EMAIL", "SUPABASE_PASSWORD"} <= os.environ.keys()
    if not all(os.environ.get(name) for name in names) or not signs_in:
        sys.exit("Set SUPABASE_URL, SUPABASE_KEY (the anon or publishable key), AGENT_ID, and either SUPABASE_EMAIL and "
                 "SUPABASE_PASSWORD or SUPABASE_ACCESS_TOKEN: those of the agent's owner.")
    url, key, agent_id = (os.environ[name] for name in names)
    session, state = Session(url, key), State(os.environ.get("STATE_FILE", "agent-state.json"))
    await session.sign_in()
    owner = session.claims()["sub"]
    client = AsyncRealtimeClient(f"{url}/realtime/v1", key, max_retries=1_000_000)
    await client.connect()
    await client.set_auth(session.token)
    channels = {}

    def results(message):
        for result in message["payload"]["results"]:
            state.take(result)
        state.save()

    def hear(channel):
        channel.on_broadcast("trade_result", results)
        channel.on_broadcast("signal", lambda message: tell("signal", **message["payload"]))

    def watch(channel):
        channel.on_presence_sync(lambda: tell("present", agents=sorted(channel.presence_state())))

    async def track(channel):
        await channel.track({"agent_id": agent_id, "status": "idle"})

    async def may_send(channel):
        channels["signals"] = channel

    await asyncio.gather(
        heartbeats(client, session, agent_id),
        keep(client, session, f"owner:{owner}", {}, hear, lambda channel: catch_up(session, state)),
        keep(client, session, f"agent-fleet:{owner}", {"presence": {"key": agent_id, "enabled": True}}, watch, track),
        keep(client, session, f"trade-signals:{agent_id}", {"broadcast": {"ack": True}}, lambda channel: None, may_send),
        send_signals(channels),
    )


asyncio.run(main())
