# Sorts psql's messages for scripts/migrate; psql runs with VERBOSITY verbose. Writes lines "info …", "notice …" and "state …"
# to the file in `facts`. Writes the useful parts of an error to standard output: message, detail, hint and the line in the
# applied file. Postgres also quotes that file's whole text, which is left out.

function flush() {
  gsub(/\n */, " ", text)
  if (level == "INFO") print "info " text > facts
  else if (level == "NOTICE" || level == "WARNING") { if (text !~ /, skipping$/) print "notice " text > facts }
  level = ""
}

/^(psql:[^ ]* )?(INFO|NOTICE|WARNING|ERROR|FATAL|PANIC):  / {
  flush()
  sub(/^psql:[^ ]* /, "")
  level = $0; sub(/:.*/, "", level)
  text = $0; sub(/^[A-Z]+:  [0-9A-Z][0-9A-Z][0-9A-Z][0-9A-Z][0-9A-Z]: /, "", text)
  state = $0; sub(/^[A-Z]+:  /, "", state)
  part = "message"
  if (level == "INFO") {
    if (text ~ /^applying /) { applying = substr(text, 10) }
  } else if (level == "ERROR" || level == "FATAL" || level == "PANIC") {
    print "state " substr(state, 1, 5) > facts
    print (applying != "" ? applying ": " : "") text
    failed = 1
  }
  next
}
/^(DETAIL|HINT):  / && failed { part = "detail"; print; if (/^DETAIL/) print "detail " substr($0, 10) > facts; next }
/^LINE [0-9]+: /              { part = "line"; print; next }
/^CONTEXT:  /                 { part = "context"; sub(/^CONTEXT:  /, "") }
/^(QUERY|LOCATION|STATEMENT|SCHEMA NAME|TABLE NAME|COLUMN NAME|CONSTRAINT NAME|DATATYPE NAME|DETAIL|HINT):  / { part = "other"; next }
part == "context" { if (/^(PL\/pgSQL function|compilation of)/ && !/inline_code_block|pg_temp_/) print "in " $0; next }
part == "message" && !failed  { text = text "\n" $0; next }
part == "message" || part == "detail" || part == "line" { print; next }
part == "other" { next }
{ print }
END { flush() }
