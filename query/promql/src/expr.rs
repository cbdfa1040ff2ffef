//! The query as a tree of our own: times in milliseconds, places in the text, and marked where nothing changes with time.
//!
//! `convert` makes it from the tree of crate `promql-parser`, which knows no places; `tokens` finds them again, and
//! `explain` says what is wrong with a text that has no tree. `constant` marks what does not change.

mod constant;
mod convert;
mod explain;
mod operators;
mod tokens;

use regex::Regex;

use crate::labels::{Labels, METRIC_NAME};
use crate::notes::Position;

pub(crate) use constant::{is_time_dependent, mark_constants};
pub(crate) use convert::parse;

/// How a label is compared.
#[derive(Debug, Clone)]
pub enum Compare {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`, anchored at both ends; `.` matches a new line too.
    Matches(Regex),
    /// `!~`
    MatchesNot(Regex),
}

/// One condition on a label. An absent label has the empty value.
#[derive(Debug, Clone)]
pub struct Matcher {
    /// The label.
    pub name: String,
    /// The value, or the expression as the user wrote it.
    pub value: String,
    /// How they are compared.
    pub compare: Compare,
}

impl Matcher {
    /// True when a label of this value is selected.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        match &self.compare {
            Compare::Equal => self.value == value,
            Compare::NotEqual => self.value != value,
            Compare::Matches(regex) => regex.is_match(value),
            Compare::MatchesNot(regex) => !regex.is_match(value),
        }
    }

    /// True when these labels are selected by every one of the matchers.
    #[must_use]
    pub fn all(matchers: &[Self], labels: &Labels) -> bool {
        matchers
            .iter()
            .all(|matcher| matcher.matches(labels.get(&matcher.name)))
    }
}

/// The moment that `@` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Start,
    End,
    Ms(i64),
}

/// `offset` and `@` of a selector or subquery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Shift {
    pub offset_ms: i64,
    pub at: Option<At>,
}

/// Which series, and when.
#[derive(Debug, Clone)]
pub(crate) struct Selector {
    /// Its number in the query, in order of the text.
    pub id: usize,
    pub matchers: Vec<Matcher>,
    pub shift: Shift,
}

impl Selector {
    /// What `absent()` says about a selector: labels that one `=` fixes.
    pub fn absent_labels(&self) -> Labels {
        let mut labels = Labels::default();
        let mut seen: Vec<&str> = Vec::new();
        for matcher in self.matchers.iter().filter(|matcher| matcher.name != METRIC_NAME) {
            // Of two conditions on one label neither is certain: Prometheus' behaviour since its beginnings.
            if matches!(matcher.compare, Compare::Equal) && !seen.contains(&matcher.name.as_str()) {
                labels = labels.with(&matcher.name, &matcher.value);
                seen.push(&matcher.name);
            } else {
                labels = labels.with(&matcher.name, "");
            }
        }
        labels
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Equal,
    NotEqual,
    Greater,
    Less,
    GreaterEqual,
    LessEqual,
    /// `</`: what a histogram observed below a value.
    TrimUpper,
    /// `>/`: above it.
    TrimLower,
    And,
    Or,
    Unless,
}

impl BinaryOp {
    pub fn is_comparison(self) -> bool {
        use BinaryOp::{Equal, Greater, GreaterEqual, Less, LessEqual, NotEqual};
        matches!(self, Equal | NotEqual | Greater | Less | GreaterEqual | LessEqual)
    }

    pub fn is_trim(self) -> bool {
        matches!(self, Self::TrimUpper | Self::TrimLower)
    }

    pub fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }

    pub fn text(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
            Self::Atan2 => "atan2",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::GreaterEqual => ">=",
            Self::LessEqual => "<=",
            Self::TrimUpper => "</",
            Self::TrimLower => ">/",
            Self::And => "and",
            Self::Or => "or",
            Self::Unless => "unless",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AggregateOp {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    Limitk,
    Quantile,
    CountValues,
}

impl AggregateOp {
    pub fn text(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Count => "count",
            Self::Min => "min",
            Self::Max => "max",
            Self::Group => "group",
            Self::Stddev => "stddev",
            Self::Stdvar => "stdvar",
            Self::Topk => "topk",
            Self::Bottomk => "bottomk",
            Self::Limitk => "limitk",
            Self::Quantile => "quantile",
            Self::CountValues => "count_values",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cardinality {
    OneToOne,
    ManyToOne,
    OneToMany,
    ManyToMany,
}

/// How the series of two sides are paired.
#[derive(Debug, Clone)]
pub(crate) struct Matching {
    pub cardinality: Cardinality,
    /// `on(...)`; else `ignoring(...)`, perhaps of nothing.
    pub on: bool,
    pub labels: Vec<String>,
    /// Labels that the one side lends to the many side.
    pub include: Vec<String>,
    /// What stands in for a sample that the left side lacks.
    pub fill_left: Option<f64>,
    /// What stands in for a sample that the right side lacks.
    pub fill_right: Option<f64>,
}

#[derive(Debug, Clone)]
pub(crate) enum Expr {
    Number(f64),
    Text(String),
    /// A text with bytes that are not UTF-8, as the user wrote it: no value and no label name that we could hold.
    BadText(String),
    Select(Selector),
    Range {
        selector: Selector,
        range_ms: i64,
    },
    Subquery {
        inner: Box<Node>,
        range_ms: i64,
        step_ms: Option<i64>,
        shift: Shift,
    },
    Call {
        function: &'static str,
        args: Vec<Node>,
    },
    Aggregate {
        op: AggregateOp,
        param: Option<Box<Node>>,
        inner: Box<Node>,
        without: bool,
        labels: Vec<String>,
    },
    Binary {
        op: BinaryOp,
        left: Box<Node>,
        right: Box<Node>,
        matching: Matching,
        returns_bool: bool,
    },
    Negate(Box<Node>),
    Paren(Box<Node>),
    /// The same at every step: evaluated once.
    Constant(Box<Node>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Scalar,
    Vector,
    Matrix,
    Text,
}

/// An expression and where it begins in the text.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub expr: Expr,
    pub at: Position,
}

impl Node {
    pub fn kind(&self) -> Kind {
        match &self.expr {
            Expr::Number(_) => Kind::Scalar,
            Expr::Text(_) | Expr::BadText(_) => Kind::Text,
            Expr::Select(_) | Expr::Aggregate { .. } => Kind::Vector,
            Expr::Range { .. } | Expr::Subquery { .. } => Kind::Matrix,
            Expr::Call { function, .. } => match *function {
                "time" | "pi" | "scalar" | "start" | "end" | "step" | "range" | "max_of" | "min_of" => Kind::Scalar,
                _ => Kind::Vector,
            },
            Expr::Binary { left, right, .. } => {
                if left.kind() == Kind::Scalar && right.kind() == Kind::Scalar {
                    Kind::Scalar
                } else {
                    Kind::Vector
                }
            }
            Expr::Negate(inner) | Expr::Paren(inner) | Expr::Constant(inner) => inner.kind(),
        }
    }

    /// Without parentheses and the mark of constancy.
    pub fn bare(&self) -> &Self {
        match &self.expr {
            Expr::Paren(inner) | Expr::Constant(inner) => inner.bare(),
            _ => self,
        }
    }

    /// Calls `visit` on every selector, subquery and call below, with the subqueries around it, outermost first.
    pub fn walk<'a>(&'a self, around: &mut Vec<&'a Self>, visit: &mut dyn FnMut(&'a Self, &[&'a Self])) {
        visit(self, around);
        around.push(self);
        match &self.expr {
            Expr::Number(_) | Expr::Text(_) | Expr::BadText(_) | Expr::Select(_) | Expr::Range { .. } => {}
            Expr::Subquery { inner, .. } | Expr::Negate(inner) | Expr::Paren(inner) | Expr::Constant(inner) => {
                inner.walk(around, visit);
            }
            Expr::Call { args, .. } => args.iter().for_each(|arg| arg.walk(around, visit)),
            Expr::Aggregate { param, inner, .. } => {
                if let Some(param) = param {
                    param.walk(around, visit);
                }
                inner.walk(around, visit);
            }
            Expr::Binary { left, right, .. } => {
                left.walk(around, visit);
                right.walk(around, visit);
            }
        }
        around.pop();
    }
}
