//! What a transaction offers for inclusion. Pure; all amounts are wei per gas.
//!
//! Invariants: a raised bid is at least one eighth (12.5 %) above the previous one in *both* fees, since pools compare
//! each (10 % in geth, erigon and go-opera); no bid exceeds the ceiling; the tip never exceeds the maximum.

use alloy::primitives::U256;

/// Both fees of one signed version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bid {
    /// EIP-1559, type 2.
    Dynamic { max_fee_wei: u128, tip_wei: u128 },
    /// Type 0.
    Legacy { gas_price_wei: u128 },
}

/// What the next block asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Market {
    /// Blocks carry a base fee; `tip_wei` is what others paid above it.
    Dynamic { base_fee_wei: u128, tip_wei: u128 },
    /// Blocks carry none, or the node refuses type 2.
    Legacy { gas_price_wei: u128 },
}

// === impl Bid ===

impl Bid {
    /// The first bid: room for the base fee to double, or an eighth above the asked gas price.
    pub(super) fn open(market: Market, ceiling_wei: u128) -> Self {
        match market {
            Market::Dynamic { base_fee_wei, tip_wei } => {
                let max_fee_wei = base_fee_wei.saturating_mul(2).saturating_add(tip_wei).min(ceiling_wei);
                Self::Dynamic { max_fee_wei, tip_wei: tip_wei.min(max_fee_wei) }
            }
            Market::Legacy { gas_price_wei } => Self::Legacy { gas_price_wei: raised(gas_price_wei).min(ceiling_wei) },
        }
    }

    /// The least bid that replaces this one and meets the market; `None` when the ceiling forbids it.
    pub(super) fn raise(self, market: Market, ceiling_wei: u128) -> Option<Self> {
        let max_floor = raised(self.max_wei());
        let tip_floor = raised(self.tip_wei());
        if max_floor > ceiling_wei {
            return None;
        }
        Some(match Self::open(market, ceiling_wei) {
            Self::Dynamic { max_fee_wei, tip_wei } => {
                let max_fee_wei = max_fee_wei.max(max_floor);
                Self::Dynamic { max_fee_wei, tip_wei: tip_wei.max(tip_floor).min(max_fee_wei) }
            }
            // One price stands for both fees.
            Self::Legacy { gas_price_wei } => Self::Legacy { gas_price_wei: gas_price_wei.max(max_floor) },
        })
    }

    /// The most that one unit of gas may cost.
    pub(super) fn max_wei(self) -> u128 {
        match self {
            Self::Dynamic { max_fee_wei, .. } => max_fee_wei,
            Self::Legacy { gas_price_wei } => gas_price_wei,
        }
    }

    fn tip_wei(self) -> u128 {
        match self {
            Self::Dynamic { tip_wei, .. } => tip_wei,
            Self::Legacy { gas_price_wei } => gas_price_wei,
        }
    }

    /// The most that `gas` units may cost, in wei.
    pub(super) fn cost_wei(self, gas: u64) -> U256 {
        U256::from(self.max_wei()).saturating_mul(U256::from(gas))
    }
}

/// One eighth more, rounded up, and more in any case.
fn raised(wei: u128) -> u128 {
    wei.saturating_add(wei.div_ceil(8).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn market() -> impl Strategy<Value = Market> {
        prop_oneof![
            (0..1u128 << 80, 0..1u128 << 80)
                .prop_map(|(base_fee_wei, tip_wei)| Market::Dynamic { base_fee_wei, tip_wei }),
            (0..1u128 << 80).prop_map(|gas_price_wei| Market::Legacy { gas_price_wei }),
        ]
    }

    #[test]
    fn the_first_bid_lets_the_base_fee_double() {
        let bid = Bid::open(Market::Dynamic { base_fee_wei: 100, tip_wei: 7 }, 1_000);
        assert_eq!(bid, Bid::Dynamic { max_fee_wei: 207, tip_wei: 7 });
    }

    #[test]
    fn a_ceiling_below_the_next_bid_ends_the_raising() {
        let bid = Bid::Dynamic { max_fee_wei: 900, tip_wei: 1 };
        assert_eq!(bid.raise(Market::Dynamic { base_fee_wei: 1, tip_wei: 1 }, 1_000), None);
    }

    #[test]
    fn a_bid_of_nothing_still_rises() {
        let bid = Bid::Legacy { gas_price_wei: 0 };
        let raised = bid.raise(Market::Legacy { gas_price_wei: 0 }, 10);
        assert_eq!(raised, Some(Bid::Legacy { gas_price_wei: 1 }));
    }

    proptest! {
        #[test]
        fn a_raised_bid_replaces_the_previous_one(first in market(), then in market(), ceiling in 1..1u128 << 90) {
            let bid = Bid::open(first, ceiling);
            if let Some(next) = bid.raise(then, ceiling) {
                prop_assert!(next.max_wei() * 8 >= bid.max_wei() * 9);
                prop_assert!(next.max_wei() > bid.max_wei() && next.tip_wei() > bid.tip_wei());
                prop_assert!(next.tip_wei() * 8 >= bid.tip_wei() * 9);
                prop_assert!(next.max_wei() <= ceiling && next.tip_wei() <= next.max_wei());
            }
        }

        #[test]
        fn no_first_bid_exceeds_the_ceiling(market in market(), ceiling in 0..1u128 << 90) {
            let bid = Bid::open(market, ceiling);
            prop_assert!(bid.max_wei() <= ceiling && bid.tip_wei() <= bid.max_wei());
        }
    }
}
