/*
 * A stand-in for the extension safeupdate, which hosted Supabase loads for `authenticator`. It has the same setting, the
 * same messages and the same SQLSTATE: an UPDATE or DELETE without WHERE raises 21000, in functions and in CTEs too.
 * Where the server has the real one, that one is loaded.
 */
#include "postgres.h"

#include "fmgr.h"
#include "parser/analyze.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

static bool enabled = true;
static post_parse_analyze_hook_type next_hook = NULL;

/* Refuses a query, or one of its CTEs, that changes every row. */
static void
refuse_unconditional(Query *query)
{
	ListCell   *cell;

	foreach(cell, query->cteList)
	{
		CommonTableExpr *cte = lfirst_node(CommonTableExpr, cell);

		if (IsA(cte->ctequery, Query))
			refuse_unconditional((Query *) cte->ctequery);
	}
	if ((query->commandType == CMD_UPDATE || query->commandType == CMD_DELETE) && query->jointree->quals == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("%s requires a WHERE clause", query->commandType == CMD_UPDATE ? "UPDATE" : "DELETE")));
}

static void
check(ParseState *pstate, Query *query, JumbleState *jstate)
{
	if (next_hook)
		next_hook(pstate, query, jstate);
	if (enabled)
		refuse_unconditional(query);
}

void
_PG_init(void)
{
	DefineCustomBoolVariable("safeupdate.enabled", "Refuses an UPDATE or DELETE without WHERE.", NULL,
							 &enabled, true, PGC_SUSET, 0, NULL, NULL, NULL);
	next_hook = post_parse_analyze_hook;
	post_parse_analyze_hook = check;
}
