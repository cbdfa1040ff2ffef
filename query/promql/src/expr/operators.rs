//! Operators and how they pair series, from `promql-parser`'s numbers to ours.

use promql_parser::parser as theirs;
use promql_parser::parser::token;

use super::{AggregateOp, BinaryOp, Cardinality, Matching};

pub(super) fn matching(modifier: Option<&theirs::BinModifier>) -> (Matching, bool) {
    let mut matching = Matching {
        cardinality: Cardinality::OneToOne,
        on: false,
        labels: Vec::new(),
        include: Vec::new(),
        fill_left: None,
        fill_right: None,
    };
    let Some(modifier) = modifier else {
        return (matching, false);
    };
    match &modifier.card {
        theirs::VectorMatchCardinality::OneToOne => {}
        theirs::VectorMatchCardinality::ManyToMany => matching.cardinality = Cardinality::ManyToMany,
        theirs::VectorMatchCardinality::ManyToOne(labels) => {
            matching.cardinality = Cardinality::ManyToOne;
            matching.include.clone_from(&labels.labels);
        }
        theirs::VectorMatchCardinality::OneToMany(labels) => {
            matching.cardinality = Cardinality::OneToMany;
            matching.include.clone_from(&labels.labels);
        }
    }
    if let Some(labels) = &modifier.matching {
        matching.on = labels.is_include();
        matching.labels.clone_from(&labels.labels().labels);
    }
    matching.fill_left = modifier.fill_values.lhs;
    matching.fill_right = modifier.fill_values.rhs;
    (matching, modifier.return_bool)
}

pub(super) fn binary_op(id: token::TokenId) -> Option<BinaryOp> {
    Some(match id {
        token::T_ADD => BinaryOp::Add,
        token::T_SUB => BinaryOp::Sub,
        token::T_MUL => BinaryOp::Mul,
        token::T_DIV => BinaryOp::Div,
        token::T_MOD => BinaryOp::Mod,
        token::T_POW => BinaryOp::Pow,
        token::T_ATAN2 => BinaryOp::Atan2,
        token::T_EQLC => BinaryOp::Equal,
        token::T_NEQ => BinaryOp::NotEqual,
        token::T_GTR => BinaryOp::Greater,
        token::T_LSS => BinaryOp::Less,
        token::T_GTE => BinaryOp::GreaterEqual,
        token::T_LTE => BinaryOp::LessEqual,
        token::T_LAND => BinaryOp::And,
        token::T_LOR => BinaryOp::Or,
        token::T_LUNLESS => BinaryOp::Unless,
        _ => return None,
    })
}

pub(super) fn aggregate_op(id: token::TokenId) -> Option<AggregateOp> {
    Some(match id {
        token::T_SUM => AggregateOp::Sum,
        token::T_AVG => AggregateOp::Avg,
        token::T_COUNT => AggregateOp::Count,
        token::T_MIN => AggregateOp::Min,
        token::T_MAX => AggregateOp::Max,
        token::T_GROUP => AggregateOp::Group,
        token::T_STDDEV => AggregateOp::Stddev,
        token::T_STDVAR => AggregateOp::Stdvar,
        token::T_TOPK => AggregateOp::Topk,
        token::T_BOTTOMK => AggregateOp::Bottomk,
        token::T_LIMITK => AggregateOp::Limitk,
        token::T_QUANTILE => AggregateOp::Quantile,
        token::T_COUNT_VALUES => AggregateOp::CountValues,
        _ => return None,
    })
}
