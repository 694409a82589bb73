//! Hosted Supabase loads `safeupdate` for every role of the API: an UPDATE or DELETE without WHERE raises 21000, inside
//! functions too. PostgreSQL's own parser reads every statement that this repository ships, and finds none of them.
//!
//! It reads the SQL files, the SQL of the documents, the bodies of functions in SQL and in PL/pgSQL, and each string
//! that is itself a statement, such as the arguments of `execute` and `cron.schedule`.

use crate::documents::Document;
use anyhow::{Context, Result, bail};
use pg_query::{
    DeparseOptions, NodeEnum, ParserOptions,
    protobuf::{CreateFunctionStmt, Node, ParseResult, RawStmt},
};
use serde_json::Value;
use stack::repository;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The parser of PL/pgSQL knows types of `pg_catalog` and `public` alone. The spaces keep every position where it was.
const OUR_SCHEMA: (&str, &str) = ("purple_flea.", "public     .");

/// Declares the variables of a trigger function. The parser's own output for trigger functions is no JSON.
const TRIGGER: &str = "create function f(new record, old record, tg_name text, tg_when text, tg_level text, tg_op text, \
    tg_relid oid, tg_relname text, tg_table_name text, tg_table_schema text, tg_nargs integer, tg_argv text[]) \
    returns record language sql as ''";

/// A piece of SQL and its origin.
struct Source {
    place: String,
    /// The line of the file that the piece begins in.
    first_line: usize,
    text: String,
}

impl Source {
    /// Lists every UPDATE and DELETE without WHERE, as `file:line: the line`.
    fn unconditional(&self) -> Result<Vec<String>> {
        let text = self.text.replace(OUR_SCHEMA.0, OUR_SCHEMA.1);
        let mut reader = Reader { text: &text, found: BTreeSet::new() };
        reader.sql(&text, ParserOptions::DEFAULT, 0).with_context(|| self.place.clone())?;
        let shown = reader.found.iter().map(|offset| {
            let before = text.get(..*offset).unwrap_or(&text).matches('\n').count();
            let line = self.text.lines().nth(before).unwrap_or_default();
            format!("{}:{}: {}", self.place, self.first_line + before, line.trim())
        });
        Ok(shown.collect())
    }
}

/// Walks through the parser's tree of a source.
struct Reader<'a> {
    text: &'a str,
    /// The positions of the faults.
    found: BTreeSet<usize>,
}

impl Reader<'_> {
    /// Reads SQL that begins at an offset of the text.
    fn sql(&mut self, sql: &str, mode: ParserOptions, at: usize) -> Result<()> {
        let parsed = pg_query::parse(sql, mode).with_context(|| format!("PostgreSQL cannot read: {sql}"))?;
        for statement in parsed.protobuf.stmts {
            let offset = at + usize::try_from(statement.stmt_location)?;
            match statement.stmt.as_ref().and_then(|node| node.node.as_ref()) {
                Some(NodeEnum::CreateFunctionStmt(function)) => self.function(function, offset)?,
                Some(NodeEnum::DoStmt(block)) => {
                    let body = body(&block.args).context("do has no body")?;
                    self.plpgsql(&format!("do {}", quoted(body)), body, offset)?;
                }
                _ => {}
            }
            self.tree(&serde_json::to_value(&statement.stmt)?, at);
        }
        Ok(())
    }

    /// Checks a node of a statement and everything below it. Their locations count from `at`.
    fn tree(&mut self, node: &Value, at: usize) {
        let fields = match node {
            Value::Object(fields) => fields,
            Value::Array(nodes) => return nodes.iter().for_each(|node| self.tree(node, at)),
            _ => return,
        };
        for (kind, node) in fields {
            match kind.as_str() {
                "UpdateStmt" | "DeleteStmt" if node["where_clause"].is_null() => {
                    self.found.insert(at + location(&node["relation"]));
                }
                "AConst" => self.string(node, at),
                _ => {}
            }
            self.tree(node, at);
        }
    }

    /// Reads a string that may be a statement, or the format of one. Most strings are neither.
    fn string(&mut self, constant: &Value, at: usize) {
        if let Some(text) = constant["val"]["Sval"]["sval"].as_str() {
            let text = text.replace("%I", "x").replace("%s", "x").replace("%L", "'x'");
            let _ = self.sql(&text, ParserOptions::DEFAULT, at + location(constant));
        }
    }

    /// Reads the body of a function whose definition begins at an offset. A body of the kind `begin atomic` is part of
    /// the tree.
    fn function(&mut self, function: &CreateFunctionStmt, at: usize) -> Result<()> {
        let name = function.funcname.last().and_then(string).context("a function has no name")?;
        let Some(body) = body(&function.options) else { return Ok(()) };
        let language = option(&function.options, "language").and_then(string).map(str::to_lowercase);
        match language.as_deref() {
            Some("sql") => self.sql(body, ParserOptions::DEFAULT, self.find(body, at)),
            Some("plpgsql") => self.plpgsql(&alone(function)?, body, at),
            other => bail!("its language {other:?} is unknown here"),
        }
        .with_context(|| format!("in function {name}"))
    }

    /// Reads each statement and each expression of a body in PL/pgSQL.
    fn plpgsql(&mut self, definition: &str, body: &str, at: usize) -> Result<()> {
        let tree = pg_query::parse_plpgsql(definition).context("PostgreSQL cannot read the body")?;
        let mut expressions = Vec::new();
        collect("PLpgSQL_expr", &tree, &mut expressions);
        let at = self.find(body, at);
        for expression in expressions {
            let query = expression["query"].as_str().context("an expression has no text")?;
            let mode = i32::try_from(expression["parseMode"].as_i64().context("an expression has no mode")?)?;
            self.sql(query, mode.into(), self.find(query, at))?;
        }
        Ok(())
    }

    /// Finds a part from an offset on. Gives the offset itself if the parser leaves out some words (INTO and its
    /// target).
    fn find(&self, part: &str, from: usize) -> usize {
        from + self.text.get(from..).and_then(|rest| rest.find(part)).unwrap_or(0)
    }
}

/// Makes a function's definition that the parser of PL/pgSQL can read: its name has no schema, and it is no trigger.
fn alone(function: &CreateFunctionStmt) -> Result<String> {
    let mut function = function.clone();
    function.funcname.drain(..function.funcname.len().saturating_sub(1));
    let returns = function.return_type.as_ref().and_then(|kind| kind.names.last()).and_then(string);
    if returns == Some("trigger") {
        let trigger = pg_query::parse(TRIGGER, ParserOptions::DEFAULT)?.protobuf.stmts.remove(0).stmt;
        let Some(NodeEnum::CreateFunctionStmt(trigger)) = trigger.and_then(|node| node.node) else {
            bail!("the declarations of a trigger are no function");
        };
        (function.parameters, function.return_type) = (trigger.parameters, trigger.return_type);
    }
    for parameter in &mut function.parameters {
        if let Some(NodeEnum::FunctionParameter(parameter)) = &mut parameter.node {
            // The deparser does not quote this name, which may be a reserved word.
            parameter.name = format!("\"{}\"", parameter.name);
        }
    }
    let stmt = Some(Box::new(Node { node: Some(NodeEnum::CreateFunctionStmt(Box::new(function))) }));
    let statement = RawStmt { stmt, ..RawStmt::default() };
    Ok(pg_query::deparse(&ParseResult { version: 0, stmts: vec![statement] }, DeparseOptions::default())?)
}

/// Finds an option of a definition.
fn option<'a>(options: &'a [Node], name: &str) -> Option<&'a Node> {
    options.iter().find_map(|option| match option.node.as_ref()? {
        NodeEnum::DefElem(option) if option.defname == name => option.arg.as_deref(),
        _ => None,
    })
}

fn body(options: &[Node]) -> Option<&str> {
    let body = option(options, "as")?;
    match body.node.as_ref()? {
        NodeEnum::List(parts) => parts.items.first().and_then(string),
        _ => string(body),
    }
}

fn string(node: &Node) -> Option<&str> {
    match node.node.as_ref()? {
        NodeEnum::String(string) => Some(&string.sval),
        _ => None,
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn location(node: &Value) -> usize {
    node["location"].as_u64().and_then(|location| usize::try_from(location).ok()).unwrap_or(0)
}

fn collect<'a>(kind: &str, tree: &'a Value, into: &mut Vec<&'a Value>) {
    match tree {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == kind {
                    into.push(value);
                }
                collect(kind, value, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(kind, item, into)),
        _ => {}
    }
}

/// Lists the files below a folder that have an extension.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, extension)?);
        } else if path.extension().is_some_and(|known| known == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn name(path: &Path) -> String {
    path.strip_prefix(repository()).unwrap_or(path).display().to_string()
}

fn sql_files() -> Result<Vec<Source>> {
    let read =
        |path: PathBuf| Ok(Source { place: name(&path), first_line: 1, text: fs::read_to_string(path)? });
    files(&repository().join("sql"), "sql")?.into_iter().map(read).collect()
}

/// Lists the blocks of a document that are marked as SQL.
fn blocks(document: &Document) -> Vec<Source> {
    let mut blocks = Vec::new();
    let mut block: Option<Source> = None;
    for (n, line) in document.text.lines().enumerate() {
        match &mut block {
            None if line.trim() == "```sql" => {
                block = Some(Source { place: document.name.clone(), first_line: n + 2, text: String::new() });
            }
            None => {}
            Some(_) if line.trim() == "```" => blocks.extend(block.take()),
            Some(source) => source.text.extend([line, "\n"]),
        }
    }
    blocks
}

fn documents() -> Result<Vec<Source>> {
    Ok(crate::documents::documents()?.iter().flat_map(blocks).collect())
}

fn assert_conditional(sources: &[Source]) -> Result<()> {
    let found: Vec<Vec<String>> = sources.iter().map(Source::unconditional).collect::<Result<_>>()?;
    let found = found.concat();
    assert!(found.is_empty(), "hosted Supabase refuses these (21000):\n{}", found.join("\n"));
    Ok(())
}

#[test]
fn no_sql_file_has_an_update_or_delete_without_where() -> Result<()> {
    let sources = sql_files()?;
    assert!(sources.iter().any(|source| source.text.contains("function purple_flea.keep_watch(")));
    assert_conditional(&sources)
}

#[test]
fn no_document_has_an_update_or_delete_without_where() -> Result<()> {
    let sources = documents()?;
    assert!(sources.iter().any(|source| source.place == "README.md"));
    assert_conditional(&sources)
}

#[test]
fn an_update_or_delete_without_where_is_found_at_every_place() -> Result<()> {
    let places = [
        ("select 1;\n\n{};", 3),
        ("with gone as (\n  {} returning 1)\nselect * from gone", 2),
        ("create function purple_flea.f() returns void language sql as $$\n  {}\n$$", 2),
        ("create function f() returns void language sql\nbegin atomic\n  {};\nend", 3),
        ("create procedure f(a int, out b int) language plpgsql as $$\nbegin\n  {};\nend;\n$$", 3),
        (
            "create function f() returns setof purple_flea.t language plpgsql as $$\nbegin\n  return query\n  {} returning *;\nend;\n$$",
            4,
        ),
        (
            "create function f(a int, \"references\" int[] default array[1]) returns int language plpgsql as $$\ndeclare\n  b purple_flea.t;\nbegin\n  if f.a > 0 then\n\
             \x20   {};\n  end if;\n  f.a := 1;\n  return a;\nend;\n$$",
            6,
        ),
        (
            "create function f() returns trigger language plpgsql as $$\nbegin\n  new.n := tg_op;\n  begin\n    {};\n\
             \x20 exception when others then\n    raise;\n  end;\n  return new;\nend;\n$$",
            5,
        ),
        ("do $$\nbegin\n  execute\n    '{}' using 1;\nend;\n$$", 4),
        ("do $$\nbegin\n  execute format('{}', 'x');\nend;\n$$", 3),
        ("select cron.schedule('prune', '* * * * *',\n  $prune$ {} $prune$)", 2),
    ];
    for (place, line) in places {
        for (fault, right) in [
            ("update purple_flea.t set n = 1", "where true"),
            ("delete from purple_flea.t as t", "where t.n = 1"),
        ] {
            let read = |statement: &str| {
                let text = place.replace("{}", statement);
                Source { place: "x.sql".to_owned(), first_line: 1, text }.unconditional()
            };
            let found = read(fault)?;
            let place = format!("x.sql:{line}: ");
            assert!(matches!(found.as_slice(), [one] if one.starts_with(&place)), "{place}{found:?}");
            assert_eq!(read(&format!("{fault} {right}"))?, Vec::<String>::new());
        }
    }
    Ok(())
}
