//! Which parts of a query are the same at every step (PreprocessExpr of prometheus/prometheus:promql/engine.go).

use super::{Expr, Node};

/// Functions whose answer depends on the step's time even if their arguments do not (promql/functions.go,
/// AtModifierUnsafeFunctions); those that the query's parameters fix are not among them.
const TIME_DEPENDENT: &[&str] = &[
    "days_in_month",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "hour",
    "minute",
    "month",
    "year",
    "predict_linear",
    "time",
    "timestamp",
];

/// Marks the largest parts of a query that are the same at every step.
pub(crate) fn mark_constants(mut node: Node) -> Node {
    if is_constant(&mut node) && wants_mark(&node) {
        constant(node)
    } else {
        node
    }
}

/// True if a function's answer depends on the step's time even where its arguments do not.
pub(crate) fn is_time_dependent(function: &str) -> bool {
    TIME_DEPENDENT.contains(&function)
}

fn constant(node: Node) -> Node {
    Node {
        at: node.at,
        expr: Expr::Constant(Box::new(node)),
    }
}

/// Literals and ranges need no mark: they cost nothing, or are read by the function around them.
fn wants_mark(node: &Node) -> bool {
    match &node.expr {
        Expr::Number(_) | Expr::Text(_) | Expr::BadText(_) | Expr::Range { .. } | Expr::Subquery { .. } => false,
        Expr::Paren(inner) => wants_mark(inner),
        _ => true,
    }
}

/// True when the expression is the same at every step. Marks the largest such parts below it (PreprocessExpr).
fn is_constant(node: &mut Node) -> bool {
    let mark = |inner: &mut Node| {
        if wants_mark(inner) {
            let expr = std::mem::replace(&mut inner.expr, Expr::Number(0.0));
            *inner = constant(Node { expr, at: inner.at });
        }
    };
    match &mut node.expr {
        Expr::Number(_) | Expr::Text(_) | Expr::BadText(_) => true,
        Expr::Select(selector) | Expr::Range { selector, .. } => selector.shift.at.is_some(),
        Expr::Subquery { inner, shift, .. } => {
            if is_constant(inner) {
                mark(inner);
            }
            shift.at.is_some()
        }
        Expr::Call { function, args } => {
            let over_selectors = args.iter().all(|arg| matches!(arg.expr, Expr::Select(_)));
            let of_args: Vec<bool> = args.iter_mut().map(is_constant).collect();
            let all = of_args.iter().all(|constant| *constant);
            // timestamp() of a pinned selector is pinned; of anything else it is the time of the step.
            if all && (!TIME_DEPENDENT.contains(function) || (*function == "timestamp" && over_selectors)) {
                return true;
            }
            args.iter_mut()
                .zip(of_args)
                .filter(|(_, constant)| *constant)
                .for_each(|(arg, _)| mark(arg));
            false
        }
        Expr::Aggregate { param, inner, .. } => {
            let of_param = param.as_mut().is_none_or(|param| is_constant(param));
            let of_inner = is_constant(inner);
            if of_param && of_inner {
                return true;
            }
            if of_inner {
                mark(inner);
            }
            false
        }
        Expr::Binary { left, right, .. } => {
            let (of_left, of_right) = (is_constant(left), is_constant(right));
            if of_left && of_right {
                return true;
            }
            if of_left {
                mark(left);
            }
            if of_right {
                mark(right);
            }
            false
        }
        Expr::Negate(inner) | Expr::Paren(inner) => is_constant(inner),
        Expr::Constant(_) => true,
    }
}
