//! The documents tell the truth about the repository: their links and paths exist, and they name every code and reason.

use anyhow::{Context, Result};
use purple_flea_edge::{domain::reason::SkipReason, http::problem::code::Code};
use stack::repository;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Most lines of the README. A new reader reads it in five minutes.
const README_LINES_LIMIT: usize = 150;

/// The documents at the top of the repository; all others are in `docs`.
const TOP: [&str; 5] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];

/// The folders that a document may name a path in.
const FOLDERS: [&str; 7] = ["component/", "docs/", "host/", "scripts/", "sql/", "src/", "tests/"];

/// A document of the repository.
pub struct Document {
    /// Its path, from the repository's root.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Reads every document.
pub fn documents() -> Result<Vec<Document>> {
    let mut paths: Vec<PathBuf> = TOP.iter().map(PathBuf::from).collect();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(repository().join(&folder))? {
            let path = folder.join(entry?.file_name());
            if repository().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let read = |path: PathBuf| {
        let text =
            fs::read_to_string(repository().join(&path)).with_context(|| path.display().to_string())?;
        Ok(Document { name: path.display().to_string(), text })
    };
    paths.into_iter().map(read).collect()
}

impl Document {
    /// The targets of its links: `target` of `[text](target)`.
    fn links(&self) -> impl Iterator<Item = &str> {
        self.text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
    }

    /// The words of it that look like a path of the repository.
    fn paths(&self) -> impl Iterator<Item = &str> {
        let ends = |c: char| c.is_whitespace() || "`()[]|,;:\"'<>…#".contains(c);
        self.text
            .split(ends)
            .map(|word| word.trim_matches(['*', '.', '/']))
            .filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)) && word.contains('.'))
    }

    /// The anchors of its headings, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let heading = |line: &str| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        let mut in_code = false;
        let headings = self.text.lines().filter(move |line| {
            in_code ^= line.trim_start().starts_with("```");
            !in_code && line.starts_with('#')
        });
        headings.map(heading).collect()
    }

    /// Its links to nothing.
    fn broken_links(&self, all: &[Self]) -> Vec<String> {
        let folder = Path::new(&self.name).parent().unwrap_or(Path::new(""));
        let is_broken = |link: &str| {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let path = if path.is_empty() { PathBuf::from(&self.name) } else { normal(&folder.join(path)) };
            let target = all.iter().find(|document| Path::new(&document.name) == path);
            let lacks_anchor = target.is_some_and(|target| !target.anchors().contains(anchor));
            !repository().join(&path).exists() || (!anchor.is_empty() && lacks_anchor)
        };
        let links = self.links().filter(|link| !link.contains("://"));
        links.filter(|link| is_broken(link)).map(|link| format!("{}: {link}", self.name)).collect()
    }
}

/// A relative path without its `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        if part.as_os_str() == ".." {
            normal.pop();
        } else {
            normal.push(part);
        }
    }
    normal
}

/// Whether a path, in which `*` stands for any text, is one of a file or folder.
fn exists(path: &str) -> bool {
    let Some((before, after)) = path.split_once('*') else { return repository().join(path).exists() };
    let (folder, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let entries = fs::read_dir(repository().join(folder)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).any(|name| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| rest.ends_with(after.rsplit('*').next().unwrap_or(after)))
    })
}

#[test]
fn every_link_of_a_document_leads_somewhere() -> Result<()> {
    let all = documents()?;
    let broken: Vec<String> = all.iter().flat_map(|document| document.broken_links(&all)).collect();
    assert!(broken.is_empty(), "links to nothing:\n{}", broken.join("\n"));
    let links = all.iter().flat_map(Document::links).count();
    assert!(links > 80, "only {links} links were found");
    Ok(())
}

#[test]
fn every_path_that_a_document_names_exists() -> Result<()> {
    let all = documents()?;
    let current = || all.iter().filter(|document| document.name != "CHANGELOG.md");
    let missing: Vec<String> = current()
        .flat_map(|document| document.paths().map(move |path| (document, path)))
        .filter(|(_, path)| !exists(path))
        .map(|(document, path)| format!("{}: {path}", document.name))
        .collect();
    assert!(missing.is_empty(), "paths of nothing:\n{}", missing.join("\n"));
    let paths = current().flat_map(Document::paths).count();
    assert!(paths > 40, "only {paths} paths were found");
    Ok(())
}

#[test]
fn the_readme_is_read_in_five_minutes() -> Result<()> {
    let lines = fs::read_to_string(repository().join("README.md"))?.lines().count();
    assert!(lines <= README_LINES_LIMIT, "the README has {lines} lines");
    Ok(())
}

#[test]
fn the_page_about_http_explains_every_code_and_every_skip_reason() -> Result<()> {
    let page = fs::read_to_string(repository().join("docs/http-api.md"))?;
    for code in Code::ALL {
        let row = code.row();
        let (code, status) = (format!("`{}`", row.name), row.status.as_u16().to_string());
        let explained = page.lines().any(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            matches!(cells.as_slice(), ["", statuses, codes, executed, ..]
                if statuses.contains(&status) && codes.contains(&code) && executed.trim_matches('*') == row.executed)
        });
        assert!(explained, "{code} {status} {}", row.executed);
    }
    for reason in SkipReason::ALL {
        assert!(page.contains(&format!("`{}`", reason.name())), "{}", reason.name());
    }
    Ok(())
}

#[test]
fn the_glossary_is_sorted_and_explains_each_term_once() -> Result<()> {
    let glossary = fs::read_to_string(repository().join("docs/glossary.md"))?;
    let rows = glossary.lines().filter(|line| line.starts_with("| ")).skip(2);
    let terms: Vec<String> = rows
        .filter_map(|row| row.split('|').nth(1))
        .map(|term| term.trim().replace('`', "").to_lowercase())
        .collect();
    assert!(terms.len() > 80, "{terms:?}");
    assert!(terms.is_sorted_by(|before, after| before < after), "{terms:?}");
    Ok(())
}

#[test]
fn what_is_missing_is_noticed() -> Result<()> {
    let document = |text: &str| Document { name: "docs/x.md".to_owned(), text: text.to_owned() };
    let all = documents()?;
    for broken in ["[a](nothing.md)", "[a](restore.md#nothing)", "[a](../docs/nothing.md)", "[a](#nothing)"] {
        assert_eq!(document(broken).broken_links(&all).len(), 1, "{broken}");
    }
    for right in ["[a](restore.md#a-disk-snapshot)", "[a](../README.md)", "[a](https://nothing.example)"] {
        assert_eq!(document(right).broken_links(&all), Vec::<String>::new(), "{right}");
    }
    for (text, found) in [("see `src/nothing.rs`.", 1), ("sql/functions/*.nothing", 1), ("`tests/*.rs`", 0)] {
        assert_eq!(document(text).paths().filter(|path| !exists(path)).count(), found, "{text}");
    }
    Ok(())
}
