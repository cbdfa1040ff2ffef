//! What is refused before anything is planned: long texts, deep nesting, long chains, calls within calls, statements that are not
//! questions, and queries whose common table expressions unfold into millions of nodes.
//!
//! Why on tokens: a chain of ten thousand `OR`s is a tree ten thousand deep. Whatever builds, walks or drops it by recursion
//! needs that much stack, so the count comes before the parser. The parser's own limit covers real nesting.
//!
//! Why calls within calls: the planner asks for the type of each argument twice at every level, and the parser reads what is in brackets
//! again for each thing it may be, so that twenty levels take seconds of a thread that nothing can stop. See [`CALLS_MAX`].

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{self, SetExpr, visit_relations};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use crate::error::{Error, ErrorKind, Position, Result};
use crate::limits::Limits;

/// Relations a query may mention after its common table expressions are unfolded.
const RELATIONS_MAX: u64 = 1000;

/// What all calls of a query may cost, where each costs [`cost_of_level`] times one and what is in its brackets. `abs(abs(...))` 15 deep is half of it, and a
/// tenth of a second of planning.
const CALLS_MAX: u64 = 1 << 17;

/// The dialect of all queries: PostgreSQL's operators and quoting.
pub(crate) static DIALECT: PostgreSqlDialect = PostgreSqlDialect {};

/// Parses one statement that is allowed to run.
///
/// # Errors
/// [`ErrorKind::TextTooLong`], [`ErrorKind::BadQuery`] with a position, [`ErrorKind::NotAllowed`].
pub(crate) fn parse(text: &str, limits: &Limits) -> Result<Statement> {
    if text.len() > limits.text_bytes_max {
        let message = format!(
            "the query has {} bytes, the limit is {}",
            text.len(),
            limits.text_bytes_max
        );
        return Err(Error::new(ErrorKind::TextTooLong, message));
    }
    let tokens = Tokenizer::new(&DIALECT, text)
        .tokenize_with_location()
        .map_err(|error| {
            let position = Position {
                line: error.location.line,
                column: error.location.column,
            };
            Error::new(ErrorKind::BadQuery, error.to_string()).at(Some(position))
        })?;
    check_tokens(&tokens, limits)?;
    let mut parser = DFParserBuilder::new(tokens)
        .with_dialect(&DIALECT)
        .with_recursion_limit(limits.depth_max)
        .build()
        .map_err(Error::from_datafusion)?;
    let mut statements = parser.parse_statements().map_err(Error::from_datafusion)?;
    let statement = match statements.len() {
        1 => statements.pop_front().expect("its length is one"),
        0 => return Err(Error::new(ErrorKind::BadQuery, "there is no query in the text")),
        n => {
            return Err(Error::new(
                ErrorKind::BadQuery,
                format!("one query at a time, the text holds {n}"),
            ));
        }
    };
    check_statement(&statement)?;
    Ok(statement)
}

/// One level of brackets, or a CASE up to its END.
struct Scope {
    /// AND, OR, UNION, JOIN: each makes the tree one deeper.
    joined: usize,
    /// Other operators since the last of those or the last comma: a tree of their own.
    operators: usize,
    in_from: bool,
    is_case: bool,
    /// How often what is in it is gone through: [`cost_of_level`].
    times: u64,
    /// What the calls in it cost.
    calls: u64,
}

impl Scope {
    fn new(times: u64, is_case: bool) -> Scope {
        Scope {
            joined: 0,
            operators: 0,
            in_from: false,
            is_case,
            times,
            calls: 0,
        }
    }

    fn join(&mut self) {
        self.joined += 1;
        self.operators = 0;
    }
}

/// The levels that are open at a token.
struct Scopes<'a> {
    open: Vec<Scope>,
    limits: &'a Limits,
}

impl Scopes<'_> {
    fn inner(&mut self) -> &mut Scope {
        self.open.last_mut().expect("the outermost scope is never closed")
    }

    fn open(&mut self, times: u64, is_case: bool, at: &Location) -> Result<()> {
        let most = self.limits.depth_max;
        if self.open.len() > most {
            return Err(refused(at, format!("brackets are nested more than {most} deep")));
        }
        self.open.push(Scope::new(times, is_case));
        // What is never closed is gone through as often.
        let within = self
            .open
            .iter()
            .fold(1_u64, |all, scope| all.saturating_mul(scope.times));
        check_calls(within, at)
    }

    fn close(&mut self, at: &Location) -> Result<()> {
        if self.open.len() == 1 {
            return Ok(());
        }
        let closed = self.open.pop().expect("it is not the only one");
        let cost = match closed.times {
            1 => closed.calls,
            times => closed.calls.saturating_mul(times).saturating_add(times),
        };
        let outer = self.inner();
        outer.calls = outer.calls.saturating_add(cost);
        check_calls(outer.calls, at)
    }
}

fn check_calls(cost: u64, at: &Location) -> Result<()> {
    if cost <= CALLS_MAX {
        return Ok(());
    }
    Err(refused(
        at,
        "too many calls within calls: compute what is inside in a subquery or a common table expression".into(),
    ))
}

/// How often the planner or, in a text that is wrong, the parser goes through what is in brackets after this word. Those with a grammar of their own are tried
/// in several ways: `position(` 12 deep took more than half a minute.
fn cost_of_level(before: Option<&Token>) -> u64 {
    let Some(Token::Word(word)) = before else {
        return 1;
    };
    match word.keyword {
        Keyword::AND
        | Keyword::OR
        | Keyword::NOT
        | Keyword::IN
        | Keyword::AS
        | Keyword::FROM
        | Keyword::JOIN
        | Keyword::ON
        | Keyword::SELECT
        | Keyword::DISTINCT
        | Keyword::WHERE
        | Keyword::HAVING
        | Keyword::BY
        | Keyword::USING
        | Keyword::OVER
        | Keyword::WHEN
        | Keyword::THEN
        | Keyword::ELSE
        | Keyword::LIKE
        | Keyword::ILIKE
        | Keyword::BETWEEN
        | Keyword::EXISTS
        | Keyword::ANY
        | Keyword::ALL
        | Keyword::UNION
        | Keyword::EXCEPT
        | Keyword::INTERSECT
        | Keyword::FILTER => 1,
        Keyword::CAST
        | Keyword::TRY_CAST
        | Keyword::SAFE_CAST
        | Keyword::CONVERT
        | Keyword::TRY_CONVERT
        | Keyword::POSITION
        | Keyword::SUBSTRING
        | Keyword::SUBSTR
        | Keyword::OVERLAY
        | Keyword::TRIM
        | Keyword::CEIL
        | Keyword::FLOOR
        | Keyword::EXTRACT
        | Keyword::INTERVAL
        | Keyword::CURRENT_DATE
        | Keyword::CURRENT_TIME
        | Keyword::CURRENT_TIMESTAMP
        | Keyword::LOCALTIME
        | Keyword::LOCALTIMESTAMP => 8,
        _ => 2,
    }
}

fn check_tokens(tokens: &[TokenWithSpan], limits: &Limits) -> Result<()> {
    let mut scopes = Scopes {
        open: vec![Scope::new(1, false)],
        limits,
    };
    let mut before = None;
    for token in tokens
        .iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_)))
    {
        let at = &token.span.start;
        let scope = scopes.inner();
        let before = before.replace(&token.token);
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                // Subscripts in a row nest to the left, too.
                scope.operators += usize::from(token.token == Token::LBracket);
                check_terms(scope, token, limits)?;
                scopes.open(cost_of_level(before), false, at)?;
                continue;
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                while scopes.inner().is_case {
                    scopes.close(at)?;
                }
                scopes.close(at)?;
                continue;
            }
            Token::Comma if scope.in_from => scope.join(),
            Token::Comma => (scope.joined, scope.operators) = (0, 0),
            Token::Word(word) => match word.keyword {
                Keyword::AND | Keyword::OR | Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT | Keyword::JOIN => {
                    scope.join();
                    scope.in_from &= word.keyword == Keyword::JOIN;
                }
                Keyword::NOT
                | Keyword::IS
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::BETWEEN
                | Keyword::COLLATE
                | Keyword::AT => {
                    scope.operators += 1;
                }
                Keyword::FROM => scope.in_from = true,
                Keyword::WHERE
                | Keyword::GROUP
                | Keyword::ORDER
                | Keyword::HAVING
                | Keyword::LIMIT
                | Keyword::SELECT => {
                    scope.in_from = false;
                }
                Keyword::CASE => scopes.open(2, true, at)?,
                Keyword::END if scope.is_case => scopes.close(at)?,
                _ => continue,
            },
            token if is_operator(token) => scope.operators += 1,
            _ => continue,
        }
        check_terms(scopes.inner(), token, limits)?;
    }
    Ok(())
}

fn check_terms(scope: &Scope, token: &TokenWithSpan, limits: &Limits) -> Result<()> {
    if scope.joined.max(scope.operators) <= limits.terms_max {
        return Ok(());
    }
    Err(refused(
        &token.span.start,
        format!("more than {} terms are chained", limits.terms_max),
    ))
}

/// Everything that is not a value, a name, white space or punctuation joins two terms or follows one.
fn is_operator(token: &Token) -> bool {
    !matches!(
        token,
        Token::EOF
            | Token::Word(_)
            | Token::Number(..)
            | Token::Char(_)
            | Token::SingleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::Whitespace(_)
            | Token::SemiColon
            | Token::Period
            | Token::Placeholder(_)
    )
}

fn refused(at: &Location, message: String) -> Error {
    Error::new(ErrorKind::BadQuery, message).at(Some(Position {
        line: at.line,
        column: at.column,
    }))
}

/// SELECT, WITH, VALUES, EXPLAIN of those, SHOW TABLES, SHOW COLUMNS, DESCRIBE. Everything else is refused by name.
fn check_statement(statement: &Statement) -> Result<()> {
    match statement {
        Statement::Explain(explain) => check_statement(&explain.statement),
        Statement::Statement(statement) => match &**statement {
            ast::Statement::Query(query) => check_query(query),
            ast::Statement::Explain { statement, .. } => check_statement(&Statement::Statement(statement.clone())),
            ast::Statement::ShowTables { .. }
            | ast::Statement::ShowColumns { .. }
            | ast::Statement::ExplainTable { .. } => Ok(()),
            other => Err(not_allowed(first_word(&other.to_string()))),
        },
        Statement::CopyTo(_) => Err(not_allowed("COPY")),
        Statement::CreateExternalTable(_) => Err(not_allowed("CREATE")),
        Statement::Reset(_) => Err(not_allowed("RESET")),
    }
}

/// Whether a statement asks for a plan.
pub(crate) fn explains(statement: &Statement) -> bool {
    match statement {
        Statement::Explain(_) => true,
        Statement::Statement(statement) => matches!(**statement, ast::Statement::Explain { .. }),
        _ => false,
    }
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or("this")
}

fn not_allowed(what: &str) -> Error {
    let message = format!("{what} is not allowed: queries only read (SELECT, WITH, EXPLAIN, SHOW TABLES, DESCRIBE)");
    Error::new(ErrorKind::NotAllowed, message)
}

fn check_query(query: &ast::Query) -> Result<()> {
    if unfolded(query, &HashMap::new()) > RELATIONS_MAX {
        let message = format!("the query unfolds into more than {RELATIONS_MAX} tables");
        return Err(Error::new(ErrorKind::BadQuery, message));
    }
    match writes(&query.body) {
        Some(what) => Err(not_allowed(what)),
        None => Ok(()),
    }
}

/// How many relations a query mentions when its common table expressions stand in full where they are named.
fn unfolded(query: &ast::Query, outer: &HashMap<String, u64>) -> u64 {
    let mut known = outer.clone();
    if let Some(with) = &query.with {
        for table in &with.cte_tables {
            let cost = unfolded(&table.query, &known);
            // At least itself: twice nothing would stay nothing.
            known.insert(table.alias.name.value.to_lowercase(), cost.max(1));
        }
    }
    let mut total: u64 = 0;
    let _: ControlFlow<()> = visit_relations(&query.body, |name| {
        total = total.saturating_add(known.get(&name.to_string().to_lowercase()).copied().unwrap_or(1));
        ControlFlow::Continue(())
    });
    total
}

/// A body that is a statement in disguise: `WITH x AS (...) DELETE ...`, `SELECT ... INTO t`.
fn writes(body: &SetExpr) -> Option<&'static str> {
    match body {
        SetExpr::Insert(_) => Some("INSERT"),
        SetExpr::Update(_) => Some("UPDATE"),
        SetExpr::Delete(_) => Some("DELETE"),
        SetExpr::Merge(_) => Some("MERGE"),
        SetExpr::Select(select) if select.into.is_some() => Some("SELECT INTO"),
        SetExpr::SetOperation { left, right, .. } => writes(left).or_else(|| writes(right)),
        SetExpr::Query(query) => writes(&query.body),
        SetExpr::Select(_) | SetExpr::Values(_) | SetExpr::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn check(text: &str, expect: Result<(), ErrorKind>) {
        let run = || {
            parse(text, &Limits::default())
                .map(|_| ())
                .map_err(|error| error.kind())
        };
        // Parsing is done on threads with large stacks, as the engine does.
        let result = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .stack_size(crate::limits::STACK_BYTES)
                .spawn_scoped(scope, run)
                .unwrap()
                .join()
                .unwrap()
        });
        assert_eq!(result, expect, "{}", &text[..text.len().min(120)]);
    }

    #[test]
    fn questions_pass() {
        for text in [
            "select 1",
            "WITH a AS (SELECT 1) SELECT * FROM a;",
            "explain select 1",
            "explain analyze verbose select 1",
            "show tables",
            "show columns from spans",
            "describe spans",
            "values (1), (2)",
            "select 1 -- comment\n union all select 2",
        ] {
            check(text, Ok(()));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "create table t as select 1",
            "create external table t stored as parquet location '/etc/passwd'",
            "copy (select 1) to '/tmp/x.csv'",
            "insert into spans select * from spans",
            "delete from spans",
            "update spans set name = 'x'",
            "drop table spans",
            "set datafusion.execution.batch_size = 1",
            "reset datafusion.execution.batch_size",
            "explain insert into spans select * from spans",
            "explain copy (select 1) to '/tmp/x'",
            "truncate table spans",
            "show all",
            "begin",
            "prepare p as select 1",
            "execute p",
            "create function f() returns int return 1",
            "create view v as select 1",
            "select * into t from spans",
            "with x as (select 1) insert into spans select * from x",
        ] {
            check(text, Err(ErrorKind::NotAllowed));
        }
    }

    #[test]
    fn stack_killers_are_refused() {
        check(
            &format!("select {}", vec!["1"; 2001].join("+")),
            Err(ErrorKind::BadQuery),
        );
        check(
            &format!("select 1 where {}", vec!["a"; 12_000].join(" or ")),
            Err(ErrorKind::BadQuery),
        );
        check(&vec!["select 1"; 3000].join(" union "), Err(ErrorKind::BadQuery));
        check(
            &format!("select 1 from {}", vec!["t"; 3000].join(",")),
            Err(ErrorKind::BadQuery),
        );
        check(&format!("select {}1", "not ".repeat(10_000)), Err(ErrorKind::BadQuery));
        check(&format!("select {}1", "- ".repeat(10_000)), Err(ErrorKind::BadQuery));
        check(&format!("select 1{}", "::int".repeat(5000)), Err(ErrorKind::BadQuery));
        check(&format!("select a{}", "[1]".repeat(5000)), Err(ErrorKind::BadQuery));
        check(
            &format!("select 1{}", " is null".repeat(5000)),
            Err(ErrorKind::BadQuery),
        );
        check(
            &format!("select {}1{}", "(".repeat(5000), ")".repeat(5000)),
            Err(ErrorKind::BadQuery),
        );
        check(
            &format!("select {}1{}", "abs(".repeat(3000), ")".repeat(3000)),
            Err(ErrorKind::BadQuery),
        );
        check(
            &format!("{}1", "select case when true then ".repeat(1000)),
            Err(ErrorKind::BadQuery),
        );
        check(
            &format!("select {}1{}", "case 1 when 1 then ".repeat(1000), " end".repeat(1000)),
            Err(ErrorKind::BadQuery),
        );
        check(&"explain ".repeat(5000), Err(ErrorKind::BadQuery));
        check(&format!("select '{}'", "x".repeat(70_000)), Err(ErrorKind::TextTooLong));
        let doubling: String = (1..40)
            .map(|n| format!(", a{n} as (select * from a{0}, a{0})", n - 1))
            .collect();
        check(
            &format!("with a0 as (select 1){doubling} select * from a39"),
            Err(ErrorKind::BadQuery),
        );
    }

    /// Without the limit each of these takes a thread for minutes, in the planner or, where the text is wrong, in the parser.
    #[test]
    fn calls_within_calls_are_refused() {
        let nested = |open: &str, inner: &str, close: &str, depth: usize| {
            format!("select {}{inner}{}", open.repeat(depth), close.repeat(depth))
        };
        let refused = |text: String| check(&text, Err(ErrorKind::BadQuery));
        refused(nested("abs(", "1", ")", 18));
        refused(nested("coalesce(", "name", ",'a')", 18));
        refused(nested("abs(", "1 1", ")", 40));
        refused(nested("position(", "1 1", " in 2)", 12));
        refused(nested("cast(", "1 1", " as int)", 16));
        refused(nested("interval (", "1 1", ")", 16));
        refused(nested("array[", "1 1", "]", 28));
        refused(nested("case when true then ", "1 1", " end", 28));
        refused(nested("f((x, y) -> ", "1 1", ")", 28));
        refused(nested("current_timestamp(", "1 1", ")", 14));
        refused(nested("abs(", "1", "", 40));
        refused(format!(
            "select {}",
            vec![nested("abs(", "1", ")", 14); 10].join(", ").replace("select ", "")
        ));
        check(&nested("abs(", "1", ")", 15), Ok(()));
        check(&nested("case when true then ", "1", " end", 15), Ok(()));
        check(&nested("cast(", "1", " as int)", 5), Ok(()));
        check(&nested("(", "1", ")", 15), Ok(()));
        check(&nested("(select ", "1", ")", 15), Ok(()));
        check(
            "select case when a in (1, 2) then abs(a) end, b, case a when 1 then 2 else 3 end from t",
            Ok(()),
        );
    }

    #[test]
    fn long_lists_are_not_chains() {
        check(&format!("select 1 where 1 in ({})", vec!["1"; 5000].join(",")), Ok(()));
        check(&format!("select {}", vec!["1+1"; 2000].join(",")), Ok(()));
        check(&format!("select {}", vec!["1"; 400].join("+")), Ok(()));
    }

    #[test]
    fn an_error_says_where() {
        let error = parse("select 1\nfrom )", &Limits::default()).unwrap_err();
        assert_eq!(error.position(), Some(Position { line: 2, column: 6 }), "{error}");
        let error = parse("select 'x", &Limits::default()).unwrap_err();
        assert_eq!(error.position(), Some(Position { line: 1, column: 8 }), "{error}");
    }
}
