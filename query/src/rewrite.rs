//! What people write that is not SQL over our columns, turned into it before planning.
//!
//! - `attributes['k']` on `spans`, `logs` and the metric tables: the promoted column if `k` has one (so it prunes), else whichever of
//!   the typed maps holds `k`, as text. For a number that must compare as a number write `attrs_int['k']` or `attrs_dbl['k']`.
//! - `resource['k']`: the promoted column, else `resource_attrs['k']`.
//! - `trace_id = '<hex>'`, `<>`, `IN (...)`, the same for `span_id` and `parent_span_id`: ids are bytes, the text becomes bytes.
//!
//! A promoted key whose value had another type than its column stayed in a map. Reading the maps for every mention of a key would cost many times
//! what its column does, so they are looked into where it can matter: by a WHERE that compares the key with a text that such a value could be
//! (`'42'`, `'true'`, but not `'cart'`), and everywhere for keys that some programs send in another type (`Promotion::is_mixed`). Those whose column is a
//! number stay numbers: of texts those that are numbers are found.
//!
//! Assumes: names resolve as in SQL, innermost FROM first. A name that is not a table of the lake (a subquery, a common table
//! expression) is left alone: its columns are what its author made of them.

use std::ops::ControlFlow;

use datafusion::common::ScalarValue;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    self, AccessExpr, BinaryOperator, Expr, Ident, Query, Select, SelectItem, SetExpr, Subscript, TableFactor, Value,
    VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::parser::Parser;
use tailwater_model::table::promote::{self, Promotion, Want};
use tailwater_model::table::{self, Table};

use crate::error::{Error, ErrorKind, Position, Result};
use crate::functions::parse_hex_id;
use crate::guard::DIALECT;

/// Rewrites a statement in place. `params` are the values of its `$1`, `$2`, ...
///
/// # Errors
/// [`ErrorKind::BadQuery`] when an id is compared with a text that is no id, or when `attributes` could mean two tables.
pub(crate) fn rewrite(statement: &mut Statement, params: &[ScalarValue]) -> Result<()> {
    match statement {
        Statement::Statement(statement) => {
            let mut rewriter = Rewriter {
                scopes: Vec::new(),
                params,
            };
            match statement.visit(&mut rewriter) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(error) => Err(*error),
            }
        }
        Statement::Explain(explain) => rewrite(&mut explain.statement, params),
        _ => Ok(()),
    }
}

struct Rewriter<'p> {
    scopes: Vec<Scope>,
    params: &'p [ScalarValue],
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

impl Rewriter<'_> {
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
        let found = self.accessed(expr)?;
        found.map(|attribute| parsed(&attribute.value())).transpose()
    }

    /// The attribute that an expression accesses; `None` if it is something else.
    fn accessed(&self, expr: &Expr) -> Result<Option<Attribute>> {
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
        Ok(Some(Attribute {
            prefix: qualifier.map(|qualifier| format!("{qualifier}.")).unwrap_or_default(),
            key: quoted(key),
            is_resource,
            promoted: promoted.copied(),
        }))
    }

    /// Rewrites the comparisons of a WHERE for which it is the same whether they are false or null: those joined by AND and OR alone.
    fn condition(&self, expr: &mut Expr) -> Result<()> {
        match expr {
            Expr::Nested(inner) => self.condition(inner),
            Expr::BinaryOp {
                left,
                op: BinaryOperator::And | BinaryOperator::Or,
                right,
            } => {
                self.condition(left)?;
                self.condition(right)
            }
            _ => {
                if let Some(rewritten) = self.comparison(expr)? {
                    *expr = parsed(&rewritten)?;
                }
                Ok(())
            }
        }
    }

    /// A comparison of a promoted attribute with values that are known: its column, and the maps where they can hold one of these.
    fn comparison(&self, expr: &Expr) -> Result<Option<String>> {
        let (compared, op, values) = match expr {
            Expr::BinaryOp { left, op, right } => match attribute_access(left) {
                Some(_) => (left, op.clone(), std::slice::from_ref(&**right)),
                None => match flipped(op) {
                    Some(op) => (right, op, std::slice::from_ref(&**left)),
                    None => return Ok(None),
                },
            },
            Expr::InList {
                expr,
                list,
                negated: false,
            } => (expr, BinaryOperator::Eq, list.as_slice()),
            _ => return Ok(None),
        };
        let Some(attribute) = self.accessed(compared)? else {
            return Ok(None);
        };
        let (Some(promotion), Some(known)) = (
            attribute.promoted,
            values.iter().map(|value| self.known(value)).collect::<Option<Vec<_>>>(),
        ) else {
            return Ok(None);
        };
        let column = format!("{}{}", attribute.prefix, promotion.column);
        let of_column = match expr {
            Expr::InList { list, .. } => {
                let list: Vec<String> = list.iter().map(Expr::to_string).collect();
                format!("{column} IN ({})", list.join(", "))
            }
            _ => format!("{column} {op} {}", values[0]),
        };
        let mut in_maps = Vec::new();
        for value in &known {
            match (promotion.want, value, &op) {
                (Want::Str, Known::Text(text), BinaryOperator::Eq) => in_maps.extend(attribute.text_in_maps(text)),
                (Want::Int, Known::Number(number), op) if flipped(op).is_some() => {
                    in_maps.push(format!("{} {op} {number}", attribute.number_in_maps()));
                }
                (Want::Int, Known::Text(text), BinaryOperator::Eq) => match text.parse::<i64>() {
                    Ok(number) => in_maps.push(format!("{} = {number}", attribute.number_in_maps())),
                    // A text that is no number is in no number's column.
                    Err(_) if known.len() == 1 => return Ok(Some(attribute.text_is(text))),
                    Err(_) => return Ok(None),
                },
                _ => return Ok(None),
            }
        }
        Ok(Some(match in_maps.is_empty() {
            true => of_column,
            false => format!("({of_column} OR ({column} IS NULL AND ({})))", in_maps.join(" OR ")),
        }))
    }

    /// What a literal or a parameter says.
    fn known(&self, expr: &Expr) -> Option<Known> {
        let Expr::Value(value) = expr else { return None };
        match &value.value {
            Value::SingleQuotedString(text) => Some(Known::Text(text.clone())),
            Value::Number(digits, _) => Some(Known::Number(digits.parse().ok()?)),
            Value::Placeholder(name) => {
                let at: usize = name.strip_prefix('$')?.parse().ok()?;
                let value = self.params.get(at.checked_sub(1)?)?;
                match value {
                    ScalarValue::Int64(number) => (*number).map(Known::Number),
                    value => value.try_as_str().flatten().map(|text| Known::Text(text.to_owned())),
                }
            }
            _ => None,
        }
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

/// A value that an attribute is compared with.
enum Known {
    Text(String),
    Number(i64),
}

/// An attribute of a table.
struct Attribute {
    /// The qualifier and its dot, if it was written with one.
    prefix: String,
    /// As SQL writes it, in quotes.
    key: String,
    is_resource: bool,
    promoted: Option<Promotion>,
}

impl Attribute {
    /// The entry of a map.
    fn of(&self, map: &str) -> String {
        format!("{}{map}[{}]", self.prefix, self.key)
    }

    /// Its value, in SQL.
    fn value(&self) -> String {
        let column = self
            .promoted
            .map(|promotion| format!("{}{}", self.prefix, promotion.column));
        let text = |map: &str| format!("CAST({} AS VARCHAR)", self.of(map));
        let typed = || {
            [
                text("attrs_int"),
                text("attrs_dbl"),
                text("attrs_bool"),
                self.of("attrs_json"),
            ]
            .join(", ")
        };
        match (column, self.promoted) {
            (Some(column), Some(promotion)) if !promotion.is_mixed => column,
            (Some(column), _) if self.is_resource => format!("coalesce({column}, {})", self.of("resource_attrs")),
            (Some(column), Some(Promotion { want: Want::Int, .. })) => {
                format!("coalesce({column}, {})", self.numbers())
            }
            // In `attrs_str` it is only beside a text under the key's other name, which has the column.
            (Some(column), _) => format!("coalesce({column}, {})", typed()),
            (None, _) if self.is_resource => self.of("resource_attrs"),
            (None, _) => format!("coalesce({}, {})", self.of("attrs_str"), typed()),
        }
    }

    /// The number that a map holds instead of the column: one beyond 32 bits, or a text that is a number.
    fn numbers(&self) -> String {
        format!("{}, TRY_CAST({} AS BIGINT)", self.of("attrs_int"), self.of("attrs_str"))
    }

    fn number_in_maps(&self) -> String {
        format!("coalesce({})", self.numbers())
    }

    fn text_is(&self, text: &str) -> String {
        format!("{} = {}", self.of("attrs_str"), quoted(text))
    }

    /// What is true of the maps where they hold a value of another type than text that reads like this; `None` if no such value does.
    fn text_in_maps(&self, text: &str) -> Option<String> {
        let (is_int, is_number) = (text.parse::<i64>().is_ok(), text.parse::<f64>().is_ok());
        let (is_bool, is_json) = (matches!(text, "true" | "false"), text.starts_with('{'));
        let literal = quoted(text);
        match self.is_resource {
            true if is_number || is_bool || is_json => Some(format!("{} = {literal}", self.of("resource_attrs"))),
            true => None,
            // Compared as text, for `+7` is none.
            false if is_int => Some(format!("CAST({} AS VARCHAR) = {literal}", self.of("attrs_int"))),
            false if is_number => Some(format!("CAST({} AS VARCHAR) = {literal}", self.of("attrs_dbl"))),
            false if is_bool => Some(format!("{} = {text}", self.of("attrs_bool"))),
            false if is_json => Some(format!("{} = {literal}", self.of("attrs_json"))),
            false => None,
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// SQL of our own as an expression.
fn parsed(text: &str) -> Result<Expr> {
    let parser = Parser::new(&DIALECT).try_with_sql(text);
    let expr = parser.and_then(|mut parser| parser.parse_expr());
    expr.map_err(|error| Error::new(ErrorKind::Internal, format!("rewriting to {text}: {error}")))
}

/// The comparison with its sides exchanged.
fn flipped(op: &BinaryOperator) -> Option<BinaryOperator> {
    Some(match op {
        BinaryOperator::Eq => BinaryOperator::Eq,
        BinaryOperator::Lt => BinaryOperator::Gt,
        BinaryOperator::LtEq => BinaryOperator::GtEq,
        BinaryOperator::Gt => BinaryOperator::Lt,
        BinaryOperator::GtEq => BinaryOperator::LtEq,
        _ => return None,
    })
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
        // A line's end that came with it from a file is not seen otherwise.
        let shown = text.escape_debug();
        let message = format!("{column} is compared with '{shown}', but such an id has {digits} hex digits");
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

impl VisitorMut for Rewriter<'_> {
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
        if let Some(condition) = &mut select.selection
            && let Err(error) = self.condition(condition)
        {
            return flow(Err(error));
        }
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
        rewrite(&mut statement, &[ScalarValue::from("42"), ScalarValue::from(503i64)])?;
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

    /// What a condition on spans becomes.
    fn condition(text: &str, expect: &str) {
        check(
            &format!("select 1 from spans s where {text}"),
            &format!("SELECT 1 FROM spans s WHERE {expect}"),
        );
    }

    #[test]
    fn a_text_that_a_number_could_be_is_looked_for_in_the_maps() {
        let ints = "CAST(attrs_int['http.route'] AS VARCHAR)";
        condition("attributes['http.route'] = 'x'", "http_route = 'x'");
        condition(
            "attributes['http.route'] = '42'",
            &format!("(http_route = '42' OR (http_route IS NULL AND ({ints} = '42')))"),
        );
        condition(
            "'4.5' = s.attributes['http.route'] and (kind = 2 or attributes['http.route'] = 'true')",
            "(s.http_route = '4.5' OR (s.http_route IS NULL AND (CAST(s.attrs_dbl['http.route'] AS VARCHAR) = '4.5'))) \
             AND (kind = 2 OR (http_route = 'true' OR (http_route IS NULL AND (attrs_bool['http.route'] = true))))",
        );
        condition(
            "attributes['http.route'] in ('a', '7', '{\"arrayValue\":{}}')",
            "(http_route IN ('a', '7', '{\"arrayValue\":{}}') OR (http_route IS NULL AND \
             (CAST(attrs_int['http.route'] AS VARCHAR) = '7' OR attrs_json['http.route'] = '{\"arrayValue\":{}}')))",
        );
        condition(
            "attributes['http.route'] = $1",
            &format!("(http_route = $1 OR (http_route IS NULL AND ({ints} = '42')))"),
        );
        condition("resource['service.name'] = 'cart'", "service_name = 'cart'");
        condition(
            "resource['service.name'] = '7'",
            "(service_name = '7' OR (service_name IS NULL AND (resource_attrs['service.name'] = '7')))",
        );
        // Where null is not as good as false the column alone answers, and of what is not known nothing is left out early.
        condition("not attributes['http.route'] = '42'", "NOT http_route = '42'");
        condition("attributes['http.route'] <> '42'", "http_route <> '42'");
        condition("attributes['http.route'] = name", "http_route = name");
    }

    #[test]
    fn keys_of_mixed_types_are_looked_for_in_the_maps_everywhere() {
        condition("attributes['user.id'] = 'u1'", "user_id = 'u1'");
        condition(
            "attributes['user.id'] is null",
            "coalesce(user_id, CAST(attrs_int['user.id'] AS VARCHAR), CAST(attrs_dbl['user.id'] AS VARCHAR), \
             CAST(attrs_bool['user.id'] AS VARCHAR), attrs_json['user.id']) IS NULL",
        );
        condition(
            "resource['service.instance.id'] <> '7'",
            "coalesce(service_instance_id, resource_attrs['service.instance.id']) <> '7'",
        );
        let maps = "attrs_int['http.status_code'], TRY_CAST(attrs_str['http.status_code'] AS BIGINT)";
        check(
            "select attributes['http.status_code'] from spans group by 1",
            &format!(
                "SELECT coalesce(http_status, {maps}) AS \"attributes['http.status_code']\" FROM spans GROUP BY 1"
            ),
        );
        for (asked, column, number) in [
            ("= 503", "= 503", "= 503"),
            ("= '503'", "= '503'", "= 503"),
            (">= 500", ">= 500", ">= 500"),
            ("< $2", "< $2", "< 503"),
        ] {
            condition(
                &format!("attributes['http.status_code'] {asked}"),
                &format!("(http_status {column} OR (http_status IS NULL AND (coalesce({maps}) {number})))"),
            );
        }
        condition(
            "500 <= attributes['http.status_code']",
            &format!("(http_status >= 500 OR (http_status IS NULL AND (coalesce({maps}) >= 500)))"),
        );
        condition(
            "attributes['http.status_code'] = 'OK'",
            "attrs_str['http.status_code'] = 'OK'",
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
        let error = rewritten("select * from spans where trace_id = 'abc\r'").unwrap_err();
        assert_eq!(error.position(), Some(Position { line: 1, column: 27 }));
        assert!(error.to_string().contains(r"'abc\r'"), "{error}");
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
