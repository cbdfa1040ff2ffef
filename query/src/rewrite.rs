//! What people write that is not SQL over our columns, turned into it before planning.
//!
//! - `attributes['k']` on `spans`, `logs` and the metric tables: the promoted column if `k` has one (so it prunes), else whichever of
//!   the typed maps holds `k`, as text. For a number that must compare as a number write `attrs_int['k']` or `attrs_dbl['k']`.
//! - `resource['k']`: the promoted column, else `resource_attrs['k']`.
//! - `trace_id = '<hex>'`, `<>`, `IN (...)`, the same for `span_id` and `parent_span_id`: ids are bytes, the text becomes bytes.
//!
//! Assumes: names resolve as in SQL, innermost FROM first. A name that is not a table of the lake (a subquery, a common table
//! expression) is left alone: its columns are what its author made of them.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    self, AccessExpr, BinaryOperator, Expr, Ident, Query, Select, SelectItem, SetExpr, Subscript, TableFactor, Value,
    VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::parser::Parser;
use tailwater_model::table::promote::{self, Promotion};
use tailwater_model::table::{self, Table};

use crate::error::{Error, ErrorKind, Position, Result};
use crate::functions::parse_hex_id;
use crate::guard::DIALECT;

/// Rewrites a statement in place.
///
/// # Errors
/// [`ErrorKind::BadQuery`] when an id is compared with a text that is no id, or when `attributes` could mean two tables.
pub(crate) fn rewrite(statement: &mut Statement) -> Result<()> {
    match statement {
        Statement::Statement(statement) => {
            let mut rewriter = Rewriter { scopes: Vec::new() };
            match statement.visit(&mut rewriter) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(error) => Err(*error),
            }
        }
        Statement::Explain(explain) => rewrite(&mut explain.statement),
        _ => Ok(()),
    }
}

struct Rewriter {
    scopes: Vec<Scope>,
}

/// What a FROM brings into sight.
#[derive(Default)]
struct Scope {
    /// Names of common table expressions, which hide tables.
    hidden: Vec<String>,
    /// Tables by the name that qualifies their columns.
    tables: Vec<(String, Table)>,
    /// Something else is in the FROM: a column without a qualifier may be its.
    others: bool,
}

impl Rewriter {
    fn scope_of(&self, select: &Select) -> Scope {
        let mut scope = Scope::default();
        let factors = select
            .from
            .iter()
            .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
        for factor in factors {
            match factor {
                TableFactor::Table {
                    name,
                    alias,
                    args: None,
                    ..
                } => {
                    let last = name.0.last().and_then(|part| part.as_ident());
                    let name = last.map(|ident| ident.value.to_lowercase()).unwrap_or_default();
                    let hidden = self.scopes.iter().any(|scope| scope.hidden.contains(&name));
                    match Table::from_name(&name).filter(|_| !hidden) {
                        Some(table) => {
                            let known_as = alias.as_ref().map_or(name, |alias| alias.name.value.to_lowercase());
                            scope.tables.push((known_as, table));
                        }
                        None => scope.others = true,
                    }
                }
                _ => scope.others = true,
            }
        }
        scope
    }

    /// The tables whose column this could be: the one of the qualifier, or all of the innermost FROM.
    fn tables(&self, qualifier: Option<&Ident>) -> Vec<Table> {
        match qualifier {
            Some(qualifier) => {
                let wanted = qualifier.value.to_lowercase();
                let mut known = self.scopes.iter().rev().flat_map(|scope| &scope.tables);
                known
                    .find(|(name, _)| *name == wanted)
                    .map(|(_, table)| *table)
                    .into_iter()
                    .collect()
            }
            None => {
                let innermost = self
                    .scopes
                    .iter()
                    .rev()
                    .find(|scope| scope.others || !scope.tables.is_empty());
                let known = innermost.filter(|scope| !scope.others).map(|scope| &scope.tables);
                known.into_iter().flatten().map(|(_, table)| *table).collect()
            }
        }
    }

    /// What an access to an attribute stands for; `None` if the expression is something else.
    fn attribute(&self, expr: &Expr) -> Result<Option<Expr>> {
        let Some((qualifier, name, key)) = attribute_access(expr) else {
            return Ok(None);
        };
        let is_resource = name.value.eq_ignore_ascii_case("resource");
        let column = if is_resource { "resource_attrs" } else { "attrs_str" };
        let mut tables = self.tables(qualifier);
        tables.retain(|table| table::columns(*table).any(|known| known.name == column));
        let table = match tables.as_slice() {
            [] => return Ok(None),
            [table] => *table,
            _ => {
                let message = format!(
                    "{name} could be of several tables: write it with the table's name, as in spans.{name}['...']"
                );
                return Err(Error::new(ErrorKind::BadQuery, message).at(position(name)));
            }
        };
        let promotions: &[Promotion] = if is_resource {
            promote::RESOURCE
        } else {
            promote::item(table)
        };
        let promoted = promotions.iter().find(|promotion| promotion.key == key);
        let promoted = promoted.filter(|promotion| table::columns(table).any(|known| known.name == promotion.column));
        let prefix = qualifier.map(|qualifier| format!("{qualifier}.")).unwrap_or_default();
        let quoted = format!("'{}'", key.replace('\'', "''"));
        let text = match promoted {
            Some(promotion) => format!("{prefix}{}", promotion.column),
            None if is_resource => format!("{prefix}resource_attrs[{quoted}]"),
            None => format!(
                "coalesce({prefix}attrs_str[{quoted}], CAST({prefix}attrs_int[{quoted}] AS VARCHAR), \
                 CAST({prefix}attrs_dbl[{quoted}] AS VARCHAR), CAST({prefix}attrs_bool[{quoted}] AS VARCHAR), \
                 {prefix}attrs_json[{quoted}])"
            ),
        };
        let parsed = Parser::new(&DIALECT)
            .try_with_sql(&text)
            .and_then(|mut parser| parser.parse_expr());
        parsed
            .map(Some)
            .map_err(|error| Error::new(ErrorKind::Internal, format!("rewriting {expr}: {error}")))
    }

    /// The name of an id column of ours that this expression is.
    fn id_column<'e>(&self, expr: &'e Expr) -> Option<&'e Ident> {
        let (qualifier, name) = match expr {
            Expr::Identifier(name) => (None, name),
            Expr::CompoundIdentifier(names) => match names.as_slice() {
                [qualifier, name] => (Some(qualifier), name),
                _ => return None,
            },
            _ => return None,
        };
        let is_id = ["trace_id", "span_id", "parent_span_id"]
            .iter()
            .any(|id| name.value.eq_ignore_ascii_case(id));
        (is_id && !self.tables(qualifier).is_empty()).then_some(name)
    }

    fn ids(&self, expr: &mut Expr) -> Result<()> {
        match expr {
            Expr::BinaryOp {
                left,
                op: BinaryOperator::Eq | BinaryOperator::NotEq,
                right,
            } => {
                if let Some(name) = self.id_column(left) {
                    id_literal(name, right)?;
                } else if let Some(name) = self.id_column(right) {
                    id_literal(name, left)?;
                }
            }
            Expr::InList { expr, list, .. } => {
                if let Some(name) = self.id_column(expr) {
                    list.iter_mut().try_for_each(|item| id_literal(name, item))?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// `attributes['k']`, `q.attributes['k']`: qualifier, name, key.
fn attribute_access(expr: &Expr) -> Option<(Option<&Ident>, &Ident, &str)> {
    let Expr::CompoundFieldAccess { root, access_chain } = expr else {
        return None;
    };
    let (qualifier, name, index) = match (&**root, access_chain.as_slice()) {
        (Expr::Identifier(name), [AccessExpr::Subscript(Subscript::Index { index })]) => (None, name, index),
        (
            Expr::Identifier(qualifier),
            [
                AccessExpr::Dot(Expr::Identifier(name)),
                AccessExpr::Subscript(Subscript::Index { index }),
            ],
        ) => (Some(qualifier), name, index),
        (Expr::CompoundIdentifier(names), [AccessExpr::Subscript(Subscript::Index { index })]) => {
            match names.as_slice() {
                [qualifier, name] => (Some(qualifier), name, index),
                _ => return None,
            }
        }
        _ => return None,
    };
    if !["attributes", "resource"]
        .iter()
        .any(|known| name.value.eq_ignore_ascii_case(known))
    {
        return None;
    }
    Some((qualifier, name, text_literal(index)?))
}

fn text_literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// Turns the text of an id into bytes.
fn id_literal(column: &Ident, expr: &mut Expr) -> Result<()> {
    let Some(text) = text_literal(expr) else { return Ok(()) };
    let digits = if column.value.eq_ignore_ascii_case("trace_id") {
        32
    } else {
        16
    };
    if text.len() != digits || parse_hex_id(text).is_none() {
        let message = format!("{column} is compared with '{text}', but such an id has {digits} hex digits");
        return Err(Error::new(ErrorKind::BadQuery, message).at(position(column)));
    }
    *expr = Expr::value(Value::HexStringLiteral(text.to_owned()));
    Ok(())
}

fn position(ident: &Ident) -> Option<Position> {
    let start = ident.span.start;
    (start.line > 0).then_some(Position {
        line: start.line,
        column: start.column,
    })
}

fn flow(result: Result<()>) -> ControlFlow<Box<Error>> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(Box::new(error)),
    }
}

impl VisitorMut for Rewriter {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        // Pushed first, so that the tables below know what is hidden; ORDER BY belongs to the query, not to its select.
        let hidden = query
            .with
            .iter()
            .flat_map(|with| &with.cte_tables)
            .map(|table| table.alias.name.value.to_lowercase());
        self.scopes.push(Scope {
            hidden: hidden.collect(),
            ..Scope::default()
        });
        if let SetExpr::Select(select) = &*query.body {
            let found = self.scope_of(select);
            let scope = self.scopes.last_mut().expect("it was pushed above");
            (scope.tables, scope.others) = (found.tables, found.others);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Self::Break> {
        self.scopes.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        let scope = self.scope_of(select);
        self.scopes.push(scope);
        // The answer's column is called what was asked for.
        for item in &mut select.projection {
            let SelectItem::UnnamedExpr(expr) = item else { continue };
            match self.attribute(expr) {
                Ok(Some(rewritten)) => {
                    let alias = Ident::with_quote('"', expr.to_string());
                    *item = SelectItem::ExprWithAlias { expr: rewritten, alias };
                }
                Ok(None) => {}
                Err(error) => return flow(Err(error)),
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _: &mut Select) -> ControlFlow<Self::Break> {
        self.scopes.pop();
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<Self::Break> {
        match self.attribute(expr) {
            Ok(Some(rewritten)) => *expr = rewritten,
            Ok(None) => return flow(self.ids(expr)),
            Err(error) => return flow(Err(error)),
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::limits::Limits;

    fn rewritten(text: &str) -> Result<String> {
        let mut statement = crate::guard::parse(text, &Limits::default()).unwrap();
        rewrite(&mut statement)?;
        Ok(statement.to_string())
    }

    fn check(text: &str, expect: &str) {
        assert_eq!(rewritten(text).unwrap(), expect);
    }

    const ID: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn promoted_attributes_are_their_column() {
        check(
            "select attributes['http.route'] from spans where attributes['http.method'] = 'GET' order by attributes['http.route']",
            "SELECT http_route AS \"attributes['http.route']\" FROM spans WHERE http_method = 'GET' ORDER BY http_route",
        );
        check(
            "select count(*) from spans s group by s.attributes['db.system']",
            "SELECT count(*) FROM spans s GROUP BY s.db_system",
        );
        check(
            "select 1 from logs where resource['service.name'] = 'a'",
            "SELECT 1 FROM logs WHERE service_name = 'a'",
        );
        check(
            "select 1 from logs where resource['x'] = 'a'",
            "SELECT 1 FROM logs WHERE resource_attrs['x'] = 'a'",
        );
    }

    #[test]
    fn other_attributes_are_looked_for_in_the_maps() {
        let text = rewritten("select 1 from spans where attributes['it''s'] = '1'").unwrap();
        assert!(
            text.contains("coalesce(attrs_str['it''s'], CAST(attrs_int['it''s'] AS VARCHAR)"),
            "{text}"
        );
        // `http.route` is promoted in spans, `db.system` in spans but not in logs.
        let text = rewritten("select 1 from logs where attributes['db.system'] = 'x'").unwrap();
        assert!(text.contains("attrs_str['db.system']"), "{text}");
    }

    #[test]
    fn ids_are_written_as_text_and_compared_as_bytes() {
        check(
            &format!("select * from spans where trace_id = '{ID}'"),
            &format!("SELECT * FROM spans WHERE trace_id = X'{ID}'"),
        );
        check(
            "select * from spans s join logs l on s.span_id = l.span_id where '00f067aa0ba902b7' <> s.parent_span_id",
            "SELECT * FROM spans s JOIN logs l ON s.span_id = l.span_id WHERE X'00f067aa0ba902b7' <> s.parent_span_id",
        );
        check(
            &format!("explain select * from spans where trace_id in ('{ID}')"),
            &format!("EXPLAIN SELECT * FROM spans WHERE trace_id IN (X'{ID}')"),
        );
        let error = rewritten("select * from spans where trace_id = 'abc'").unwrap_err();
        assert_eq!(error.position(), Some(Position { line: 1, column: 27 }));
    }

    #[test]
    fn names_that_are_not_tables_are_left_alone() {
        for text in [
            "WITH spans AS (SELECT 1 AS trace_id) SELECT * FROM spans WHERE trace_id = 'x'",
            "SELECT * FROM (SELECT hex_id(trace_id) AS trace_id FROM spans) t WHERE trace_id = 'x'",
            "SELECT attributes['x'] FROM (SELECT 1) AS t",
            "SELECT attributes['x'] FROM ledger",
        ] {
            check(text, text);
        }
    }

    #[test]
    fn two_tables_need_a_name() {
        assert!(rewritten("select attributes['x'] from spans, logs").is_err());
        assert!(rewritten("select logs.attributes['x'] from spans, logs").is_ok());
    }
}
