//! Finds the function that a call means, and makes the SQL that calls it.

use super::{
    error::Error,
    request::{Arguments, Single},
    sql,
};
use http::StatusCode;
use std::collections::BTreeSet;
use tokio_postgres::{Client, Row};

/// Reads the functions of a name, as far as the stand-in serves them. The columns are the parameters (without
/// `VARIADIC`), the number of parameters with defaults, the result, the volatility, and the function's own settings.
const CANDIDATES: &str = "select \
    array(select coalesce(p.proargnames[a.n], '') \
          from unnest(coalesce(p.proargmodes, array_fill('i'::\"char\", array[p.pronargs::int]))) with ordinality as a (mode, n) \
          where a.mode in ('i', 'b') order by a.n)::text[], \
    array(select format_type(t, null) from unnest(p.proargtypes) with ordinality as a (t, n) order by n)::text[], \
    p.pronargdefaults::int, p.prorettype = 'void'::regtype, p.proretset, \
    r.typtype = 'c' or coalesce(p.proargmodes::text[] && '{t,b,o}', false), p.provolatile = 'v', \
    coalesce(p.proconfig, '{}') \
    from pg_proc p join pg_type r on r.oid = p.prorettype \
    where p.pronamespace = 'public'::regnamespace and p.proname = $1 and p.prokind = 'f' and p.provariadic = 0 \
    order by p.oid";

/// The settings of a function that hold for the whole transaction (`db-hoisted-tx-settings`).
const HOISTED: [&str; 2] = ["statement_timeout", "default_transaction_isolation"];

/// A function, and the way to call it with some of its arguments.
pub(super) struct Routine {
    /// The SQL. It has at most one parameter: the arguments as text.
    pub(super) text: String,
    /// Whether it has that parameter.
    pub(super) has_arguments: bool,
    /// Whether the function returns nothing.
    pub(super) void: bool,
    /// Whether the function may change anything.
    pub(super) volatile: bool,
    /// Settings for the transaction: names and values.
    pub(super) settings: Vec<(String, String)>,
}

/// A function that the call may mean.
struct Candidate {
    parameters: Vec<Parameter>,
    void: bool,
    set: bool,
    composite: bool,
    volatile: bool,
    settings: Vec<(String, String)>,
}

struct Parameter {
    name: String,
    kind: String,
    required: bool,
}

impl Routine {
    /// Finds the function that the call means.
    pub(super) async fn find(client: &Client, function: &str, arguments: &Arguments) -> Result<Self, Error> {
        let rows = client
            .query(CANDIDATES, &[&function])
            .await
            .map_err(|error| Error::connection_lost(error.to_string()))?;
        let candidates: Vec<Candidate> = rows.iter().map(Candidate::read).collect();
        let named: Vec<&Candidate> =
            candidates.iter().filter(|candidate| candidate.takes(arguments)).collect();
        let single =
            || candidates.iter().filter(|candidate| candidate.takes_single(arguments.single)).collect();
        let fitting: Vec<&Candidate> = if named.is_empty() { single() } else { named };
        match fitting.as_slice() {
            [] => Err(unknown(function, arguments)),
            [one] => Ok(one.call(function, arguments)),
            several => Err(ambiguous(function, several)),
        }
    }
}

impl Candidate {
    fn read(row: &Row) -> Self {
        let (names, kinds): (Vec<String>, Vec<String>) = (row.get(0), row.get(1));
        let needed = names.len().saturating_sub(usize::try_from(row.get::<_, i32>(2)).unwrap_or(0));
        let parameter = |(n, (name, kind))| Parameter { name, kind, required: n < needed };
        let setting = |setting: &String| {
            let (name, value) = setting.split_once('=')?;
            HOISTED.contains(&name).then(|| (name.to_owned(), value.to_owned()))
        };
        Self {
            parameters: names.into_iter().zip(kinds).enumerate().map(parameter).collect(),
            void: row.get(3),
            set: row.get(4),
            composite: row.get(5),
            volatile: row.get(6),
            settings: row.get::<_, Vec<String>>(7).iter().filter_map(setting).collect(),
        }
    }

    /// Tells whether the function's parameters fit the given names.
    fn takes(&self, arguments: &Arguments) -> bool {
        if self.parameters.is_empty() {
            return arguments.names.is_empty() && !matches!(arguments.single, Single::Text | Single::Xml);
        }
        let names = |all: bool| {
            let wanted = self.parameters.iter().filter(|parameter| all || parameter.required);
            wanted.map(|parameter| parameter.name.clone()).collect::<BTreeSet<String>>()
        };
        arguments.names.is_subset(&names(true)) && names(false).is_subset(&arguments.names)
    }

    /// Tells whether the function's one parameter could take the whole body.
    fn takes_single(&self, single: Single) -> bool {
        let [parameter] = self.parameters.as_slice() else { return false };
        match single {
            Single::None => false,
            Single::Json => parameter.kind == "json" || parameter.kind == "jsonb",
            Single::Text => parameter.kind == "text",
            Single::Xml => parameter.kind == "xml",
        }
    }

    fn call(&self, function: &str, arguments: &Arguments) -> Routine {
        let given: Vec<&Parameter> =
            self.parameters.iter().filter(|parameter| arguments.names.contains(&parameter.name)).collect();
        let function = format!("public.{}", sql::identifier(function));
        let (source, passed) = match (self.parameters.as_slice(), given.as_slice()) {
            ([only], _) if only.name.is_empty() => (None, format!("$1::text::{}", only.kind)),
            // A function that was found by its single parameter gets no argument, if the parameter has a name.
            (_, []) => (None, String::new()),
            (_, given) => {
                let columns: Vec<String> = given
                    .iter()
                    .map(|given| format!("{} {}", sql::identifier(&given.name), given.kind))
                    .collect();
                let passed: Vec<String> = given
                    .iter()
                    .map(|given| format!("{0} := pgrst_body.{0}", sql::identifier(&given.name)))
                    .collect();
                let records = if arguments.is_array() { "json_to_recordset" } else { "json_to_record" };
                let columns = columns.join(", ");
                let source = format!(
                    "(select * from {records}($1::text::json) as _ ({columns}) limit 1) as pgrst_body"
                );
                (Some(source), passed.join(", "))
            }
        };
        let has_arguments = passed.contains("$1") || source.is_some();
        let call = format!("{function}({passed})");
        let call = if self.composite { call } else { format!("(select {call} as pgrst_scalar)") };
        let from = match source {
            Some(source) => format!("{source}, lateral {call} as pgrst_call"),
            None => format!("{call} as pgrst_call"),
        };
        let (columns, row) = if self.composite {
            ("pgrst_call.*", "_postgrest_t")
        } else {
            ("pgrst_call.pgrst_scalar", "_postgrest_t.pgrst_scalar")
        };
        let body = if self.set {
            format!("coalesce(json_agg({row}), '[]')")
        } else {
            format!("coalesce(json_agg({row}) -> 0, 'null')")
        };
        Routine {
            text: format!("select {body}::text from (select {columns} from {from}) as _postgrest_t"),
            has_arguments,
            void: self.void,
            volatile: self.volatile,
            settings: self.settings.clone(),
        }
    }
}

/// Makes the error for arguments that fit no function.
fn unknown(function: &str, arguments: &Arguments) -> Error {
    let names: Vec<&str> = arguments.names.iter().map(String::as_str).collect();
    let listed = names.join(", ");
    let plural = if names.len() > 1 { "s" } else { "" };
    let with = |named: String| if names.is_empty() { " without parameters".to_owned() } else { named };
    let named = with(format!(" with parameter{plural} {listed}"));
    let (signature, searched) = match arguments.single {
        Single::Text => (String::new(), " with a single unnamed text parameter".to_owned()),
        Single::Xml => (String::new(), " with a single unnamed xml parameter".to_owned()),
        Single::Json => {
            (with(format!("({listed})")), format!("{named} or with a single unnamed json/jsonb parameter"))
        }
        Single::None => (with(format!("({listed})")), named),
    };
    let message = format!("Could not find the function public.{function}{signature} in the schema cache");
    let details = format!(
        "Searched for the function public.{function}{searched}, but no matches were found in the schema cache."
    );
    Error::new(StatusCode::NOT_FOUND, "PGRST202", &message).details(details)
}

/// Makes the error for arguments that fit several functions.
fn ambiguous(function: &str, several: &[&Candidate]) -> Error {
    let signature = |candidate: &&Candidate| {
        let parameters: Vec<String> = candidate
            .parameters
            .iter()
            .map(|parameter| format!("{} => {}", parameter.name, parameter.kind))
            .collect();
        format!("public.{function}({})", parameters.join(", "))
    };
    let listed: Vec<String> = several.iter().map(signature).collect();
    let message = format!("Could not choose the best candidate function between: {}", listed.join(", "));
    let hint = "Try renaming the parameters or the function itself in the database so function overloading can be resolved";
    Error::new(StatusCode::MULTIPLE_CHOICES, "PGRST203", &message).hint(hint)
}
