//! The table of all settings: their meanings, defaults and limits.

/// A setting. An empty value counts as not set.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The name of the Spin variable. The environment variable has the same name in capitals.
    pub name: &'static str,
    /// The default; empty: the setting has no default.
    pub default: &'static str,
    /// The end of the sentence "It must be …".
    pub limits: &'static str,
    /// Whether the value must never be shown.
    pub secret: bool,
}

/// Defines a constant for each setting, and the lists of all of them. The meanings have a list of their own,
/// so the component does not contain them. A test writes docs/configuration.md from them.
macro_rules! settings {
    ($($(#[doc = $meaning:literal])+ $constant:ident = $kind:ident($name:literal, $default:literal, $limits:expr);)+) => {
        $($(#[doc = $meaning])+ pub(super) const $constant: Setting =
            Setting { name: $name, default: $default, limits: $limits, secret: settings!(@$kind) };)+

        /// All settings, in the order of the manifest.
        pub const SETTINGS: [Setting; [$($name),+].len()] = [$($constant),+];

        /// The meaning of each setting, in the same order.
        pub const MEANINGS: [&str; SETTINGS.len()] = [$(concat!($($meaning),+)),+];
    };
    (@setting) => { false };
    (@secret) => { true };
}

const A_URL: &str = "https://host[:port][/prefix], or http:// to a loopback host";

const A_SIGNING_KEY: &str =
    "32 to 256 hexadecimal digits, an even number, alone or after signkey- and an environment and a hyphen";

const A_KEY: &str = "set, to visible ASCII characters only";

settings! {
    /// Purple Flea's origin and, outside Spin, a path prefix.
    PURPLE_FLEA_URL = setting("purple_flea_url", "https://api.purpleflea.com", A_URL);
    /// The shared key at Purple Flea, sent as a bearer token: for the games, balances, escrows and the faucet. Required, unless
    /// every agent of the ledger has a key of its own.
    PURPLE_FLEA_KEY = secret("purple_flea_key", "", A_KEY);
    /// The specification's name for `purple_flea_key`. It counts only where `purple_flea_key` is not set.
    PURPLE_FLEA_API_KEY = secret("purple_flea_api_key", "", A_KEY);
    /// The specification's other name for `purple_flea_key`. It counts only where neither of the two before is set.
    PF_AGENT_KEY = secret("pf_agent_key", "", A_KEY);
    /// The dialect: `gateway` is the documented API, `live` is what the released servers answer. Unknown bets can be looked up
    /// in `live` only.
    PURPLE_FLEA_API = setting("purple_flea_api", "gateway", "gateway or live");
    /// The longest time for one exchange with Purple Flea, in milliseconds. It is less than the 15 s that the trigger waits, so
    /// that the reply comes while the trigger listens.
    PURPLE_FLEA_TIMEOUT_MS = setting("purple_flea_timeout_ms", "8000", "within 100 and 13000");
    /// How long the function holds a bet's body back after its head, in milliseconds. If the connection breaks in that time,
    /// the bet was certainly not made. For a host that keeps connections longer than Purple Flea does (Spin), and longer
    /// than the way to Purple Flea and back.
    PURPLE_FLEA_HOLD_MS = setting("purple_flea_hold_ms", "0", "within 0 and 1000, and at most half of purple_flea_timeout_ms");
    /// The base URL of balances, orders and escrows in the `gateway` dialect, as Purple Flea's page on workflows documents it. The
    /// `live` dialect does not use it. The default counts only beside the default of `purple_flea_url`: with another
    /// `purple_flea_url`, these calls go there.
    PURPLE_FLEA_WORKFLOW_URL = setting("purple_flea_workflow_url", "https://purpleflea.com/api", A_URL);
    /// The origin of escrows, if it is not `purple_flea_workflow_url` or, in the `live` dialect, `purple_flea_url`. There each
    /// service has a host of its own.
    PURPLE_FLEA_ESCROW_URL = setting("purple_flea_escrow_url", "", A_URL);
    /// The origin of the faucet, if it is not `purple_flea_url`.
    PURPLE_FLEA_FAUCET_URL = setting("purple_flea_faucet_url", "", A_URL);
    /// The origin of the `gateway` dialect's daily claim. The `live` dialect does not use it. The default counts only beside the
    /// default of `purple_flea_url` and without a `purple_flea_faucet_url`: otherwise the faucet's origin is this one, too.
    PURPLE_FLEA_DAILY_URL = setting("purple_flea_daily_url", "https://faucet.purpleflea.com", A_URL);
    /// The origin of trading (in the `gateway` dialect: of orders), if it is not `purple_flea_workflow_url` or, in the `live`
    /// dialect, `purple_flea_url`.
    PURPLE_FLEA_TRADING_URL = setting("purple_flea_trading_url", "", A_URL);
    /// The shared key for trading. In the `live` dialect it is another key. Empty: `purple_flea_key`.
    PURPLE_FLEA_TRADING_KEY = secret("purple_flea_trading_key", "", A_KEY);
    /// The secrets that callers sign with, separated by spaces or commas. This setting or `webhook_token` is required.
    WEBHOOK_SECRETS = secret("webhook_secrets", "", "one to 8 secrets of the form whsec_ and the base64 of 24 to 64 bytes");
    /// A bearer token for requests. It differs from every operator's token. Empty: only signed calls are accepted.
    WEBHOOK_TOKEN = secret("webhook_token", "", "empty or at least 16 visible ASCII characters");
    /// The operators' tokens, separated by spaces or commas. A name has 1 to 32 of `a-z 0-9 . _ -`. A token has at least 128
    /// random bits: `openssl rand -hex 32`. Only these tokens open the operator's paths.
    OPERATOR_TOKENS = secret("operator_tokens", "", "one to 8 name:token pairs with different names and tokens; a token is at least 32 hexadecimal digits or 22 base64url characters, at random");
    /// The agent of a request that names none, in standalone mode. `scripts/invoke` adds it to a body in both modes.
    AGENT_ID = setting("agent_id", "", "1 to 128 bytes without control characters");
    /// The address of the wallet for a daily claim that names none, in standalone mode. In ledger mode `agents.wallet_address`
    /// counts.
    AGENT_WALLET = setting("agent_wallet", "", "1 to 128 bytes without control characters");
    /// The agent whose money the workflows move, in ledger mode: no event can name another one. Empty: `agent_id`. One of the
    /// two is required where Inngest calls the function.
    INNGEST_AGENT_ID = setting("inngest_agent_id", "", "1 to 128 bytes without control characters");
    /// The address of the wallet that the workflows' daily claim names. Empty: `agent_wallet` or, without both, `agents.wallet_address`.
    INNGEST_AGENT_WALLET = setting("inngest_agent_wallet", "", "1 to 128 bytes without control characters");
    /// The address that the step `log-trade` posts each trade of a price alert to. Empty: the step is skipped.
    INNGEST_LOG_URL = setting("inngest_log_url", "", A_URL);
    /// The secret that signs those posts, as Standard Webhooks defines it. Empty: they are not signed.
    INNGEST_LOG_SECRET = secret("inngest_log_secret", "", "empty or whsec_ and the base64 of 24 to 64 bytes");
    /// When the workflow `scheduled-bet` bets, as a cron expression of five fields in UTC. Empty: there is no such workflow.
    INNGEST_BET_CRON = setting("inngest_bet_cron", "", "empty or five fields of 0-9 * , - / and letters");
    /// The side of the coin that `scheduled-bet` bets on.
    INNGEST_BET_SIDE = setting("inngest_bet_side", "heads", "heads or tails");
    /// The wager of `scheduled-bet`, in US dollars. Required beside `inngest_bet_cron`.
    INNGEST_BET_WAGER = setting("inngest_bet_wager", "", "empty or whole cents, 0.01 or more");
    /// The secret that Purple Flea signs its own webhooks with. It opens `POST /webhooks/purple-flea`. Empty: the path accepts nothing.
    PURPLE_FLEA_SIGNING_SECRET = secret("purple_flea_signing_secret", "", "empty or 16 to 256 visible ASCII characters");
    /// The game that a deposit leads to.
    GAME = setting("game", "crash", "crash, coin-flip, hi-lo or trade");
    /// The multiplier at which a crash bet cashes out.
    CASHOUT_AT = setting("cashout_at", "1.5", "within 1.01 and 100, with at most 2 digits after the point");
    /// The side of a coin-flip.
    SIDE = setting("side", "heads", "heads or tails");
    /// The guess of a hi-lo bet: whether the second card is higher or lower than the first. Only the `live` dialect has hi-lo.
    GUESS = setting("guess", "higher", "higher or lower");
    /// The market of a trade, such as `BTC`, `ETH-USD` or `TSLA`. Required where `game` is `trade`.
    MARKET = setting("market", "", "1 to 20 characters of A-Z a-z 0-9 . _ : / -");
    /// The direction of a trade. Empty: the gateway gets none, and the live dialect, which demands one, gets `long`.
    DIRECTION = setting("direction", "", "empty, long or short");
    /// The leverage of a trade in the live dialect (the gateway documents none), and the most that a request for a trade may
    /// have. Empty: none is sent, and Purple Flea uses 5.
    LEVERAGE = setting("leverage", "", "empty or a whole number within 1 and 50");
    /// The size of a trade, in US dollars. Empty: as much as a wager would be.
    SIZE = setting("size", "", "empty or an amount, 0.01 or more");
    /// Whether the function asks Purple Flea for the balance before it stakes, and skips a stake that the balance does not cover.
    CHECK_BALANCE = setting("check_balance", "false", "true or false");
    /// The smallest balance that is bet from, in US dollars.
    MIN_BALANCE = setting("min_balance", "5", "an amount, 0 or more");
    /// The smallest deposit that leads to a bet, in US dollars.
    MIN_CHANGE = setting("min_change", "0", "an amount, 0 or more");
    /// The part of the balance that is bet.
    WAGER_FRACTION = setting("wager_fraction", "0.10", "above 0, at most 1, with at most 6 digits after the point");
    /// The most that one bet may be, in US dollars. Empty: no limit.
    MAX_WAGER = setting("max_wager", "", "empty or an amount, 0.01 or more");
    /// The fraction of Kelly's bet that one bet may stake, in the `live` dialect. A bet above `balance × risk_factor × probability
    /// of a win` is skipped, and the reply names the limit. The default is what Purple Flea gives a new agent.
    RISK_FACTOR = setting("risk_factor", "0.25", "none, or within 0.1 and 1, with at most 6 digits after the point");
    /// Whether every bet is held back.
    PAUSED = setting("paused", "false", "true or false");
    /// Supabase's URL. Together with `supabase_key` it switches ledger mode on; one without the other is an error.
    SUPABASE_URL = setting("supabase_url", "", A_URL);
    /// The function's key: a secret key (`sb_secret_…`), the token of `service_role` or, narrower, a token of
    /// `purple_flea_worker`.
    SUPABASE_KEY = secret("supabase_key", "", A_KEY);
    /// The key for Supabase's gateway, if it is not `supabase_key`: the publishable (or `anon`) key, beside a worker's token.
    SUPABASE_APIKEY = secret("supabase_apikey", "", A_KEY);
    /// The key for operators' calls: a secret key, the token of `service_role` or, narrower, a token of `purple_flea_operator`.
    /// Empty: `supabase_key`, which must then be one of the first two.
    SUPABASE_OPERATOR_KEY = secret("supabase_operator_key", "", A_KEY);
    /// The most bets that are under way for one notification, and the most jobs of one claim.
    BETS_AT_ONCE = setting("bets_at_once", "64", "within 1 and 100");
    /// Whether the function answers a notification that prefers it (`Prefer: respond-async`) at once with 202, and works
    /// afterwards. Only for hosts that let work go on after the reply: ours, Spin and Wasmtime do.
    AFTER_REPLY = setting("after_reply", "false", "true or false");
    /// How long the worker then long-polls for the next job after the last one, in milliseconds. The default is a little more
    /// than the second that pg_net sleeps after each batch. 0: never.
    LINGER_MS = setting("linger_ms", "1200", "within 0 and 3000");
    /// The key with which Inngest signs its calls: `signkey-`, the environment, `-` and hexadecimal digits, or the digits alone.
    /// With it, or with `inngest_dev`, Inngest may call `/api/inngest`.
    INNGEST_SIGNING_KEY = secret("inngest_signing_key", "", A_SIGNING_KEY);
    /// The signing key before `inngest_signing_key`, during a rotation.
    INNGEST_SIGNING_KEY_FALLBACK = secret("inngest_signing_key_fallback", "", A_SIGNING_KEY);
    /// The key with which the function sends events to Inngest. It is a part of that request's URL, as Inngest wants it.
    INNGEST_EVENT_KEY = secret("inngest_event_key", "", "1 to 256 characters of A-Z a-z 0-9 _ -");
    /// Where the function registers its workflows: Inngest's cloud, or a server of your own.
    INNGEST_API_URL = setting("inngest_api_url", "https://api.inngest.com", A_URL);
    /// Where the function sends events. The default counts only beside the default of `inngest_api_url`: a server of your own
    /// takes both.
    INNGEST_EVENT_URL = setting("inngest_event_url", "https://inn.gs", A_URL);
    /// The URL under which Inngest reaches `/api/inngest`. Required beside `inngest_signing_key` and `inngest_dev`: it is
    /// never taken from a request, so no caller can lead Inngest elsewhere.
    INNGEST_SERVE_URL = setting("inngest_serve_url", "", "https://host[:port]/path, or http:// to a loopback host");
    /// Whether Inngest is a development server on this machine, which signs nothing. Then anyone who reaches the function can
    /// call the workflows, so Purple Flea must be a simulator and the ledger a local one.
    INNGEST_DEV = setting("inngest_dev", "false", "true or false; true only where inngest_api_url, inngest_event_url, supabase_url and every URL of Purple Flea are loopback URLs");
    /// The environment at Inngest, sent as `x-inngest-env`. Empty: none is sent, and the keys decide.
    INNGEST_ENV = setting("inngest_env", "", "1 to 64 characters of A-Z a-z 0-9 . _ / -");
}
