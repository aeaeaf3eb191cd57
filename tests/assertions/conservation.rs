//! Assertion 15: the vault's law. Every coin it holds is in one place, whatever is called in whatever order.
//!
//! Sequences of calls are generated from a seed and sent to a real chain in small rounds, one block each. Most calls are
//! well aimed, some are not; what fails must change nothing. After each round the places are summed and compared with
//! what the vault owns. A failure prints the seed; `CONSERVATION_SEED` repeats it.

use std::collections::BTreeMap;
use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use alloy::eips::BlockId;
use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider;
use alloy::providers::ext::AnvilApi;
use alloy::rpc::client::BatchRequest;
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::sol_types::SolCall;
use chain::abi::{Controller, Nexus, ResponseParams, SourceParams, TaskParams, Terminal, Vault};
use provisioning::devnet::Role;
use testbed::stage::{GAS_MAX, Stage, events};

const CALLS: usize = 10_000;
/// Calls between two looks at the sums.
const ROUND: usize = 5;
/// The newest tasks are the ones that calls are aimed at; older ones are mostly over.
const TASKS_IN_PLAY: usize = 8;
/// Small, so that accounts run dry and calls fail.
const AMOUNT_MAX: u64 = 1000;
/// Between two blocks, in seconds of the chain: two rounds pass the unbonding period.
const BLOCK_S: u64 = 3;
/// The longest life of a task, in seconds of the chain.
const EXPIRY_S: u64 = 120;

/// Everyone who may have coins in the vault.
const HOLDERS: [Role; 7] =
    [Role::Client, Role::Master, Role::Agent, Role::Judge, Role::Spare1, Role::Spare2, Role::Spare3];

/// One call: who sends what to whom.
struct Call {
    kind: &'static str,
    from: Address,
    to: Address,
    value: u64,
    input: Vec<u8>,
}

/// What the generator knows of the world.
struct World {
    stage: Stage,
    dice: Dice,
    sources: [Address; 2],
    tasks: Vec<Address>,
    responses: Vec<Address>,
    payloads: u64,
    succeeded: BTreeMap<&'static str, usize>,
}

/// SplitMix64: short, and the same everywhere.
struct Dice(u64);

// === impl Dice ===

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let length = u64::try_from(from.len()).expect("a list in memory has fewer items than that");
        if length == 0 { None } else { from.get(usize::try_from(self.below(length)).ok()?).copied() }
    }
}

// === impl World ===

impl World {
    async fn new(seed: u64) -> World {
        let stage = Stage::up().await;
        for (provider, master) in [(Role::Spare1, Role::Master), (Role::Spare2, Role::Spare3)] {
            stage.pair(provider, master, 0).await;
        }
        let mut sources = [Address::ZERO; 2];
        for (method, place) in (0..2_u8).zip(&mut sources) {
            *place = publish_source(&stage, method).await;
            stage.register(Role::Spare1, *place).await;
            stage.register(Role::Spare2, *place).await;
        }
        stage.chain.anvil_set_auto_mine(false).await.expect("anvil waits to be told");
        stage.chain.anvil_set_block_timestamp_interval(BLOCK_S).await.expect("anvil keeps the time it is told");
        let (tasks, responses) = (Vec::new(), Vec::new());
        World { stage, dice: Dice(seed), sources, tasks, responses, payloads: 0, succeeded: BTreeMap::new() }
    }

    fn vault_call<C: SolCall>(&self, kind: &'static str, from: Role, call: C) -> Call {
        let (from, to) = (self.stage.address(from), self.stage.contracts().vault);
        Call { kind, from, to, value: 0, input: call.abi_encode() }
    }

    fn nexus_call<C: SolCall>(&self, kind: &'static str, from: Role, call: C) -> Call {
        let (from, to) = (self.stage.address(from), self.stage.contracts().nexus);
        Call { kind, from, to, value: 0, input: call.abi_encode() }
    }

    fn controller_call<C: SolCall>(&self, kind: &'static str, call: C) -> Call {
        let (from, to) = (self.stage.address(Role::Client), self.stage.contracts().controller);
        Call { kind, from, to, value: 0, input: call.abi_encode() }
    }

    fn amount(&mut self) -> U256 {
        U256::from(self.dice.below(AMOUNT_MAX))
    }

    fn holder(&mut self) -> Role {
        self.dice.pick(&HOLDERS).expect("there are holders")
    }

    fn task(&mut self) -> Address {
        let first = self.tasks.len().saturating_sub(TASKS_IN_PLAY);
        self.dice.pick(&self.tasks[first..]).unwrap_or(Address::ZERO)
    }

    fn provider(&mut self) -> Role {
        self.dice.pick(&[Role::Spare1, Role::Spare2]).expect("there are two")
    }

    /// The next call. `now` is the chain's time.
    fn draw(&mut self, now: u64) -> Call {
        match self.dice.below(100) {
            0..30 => self.draw_for_an_account(),
            30..46 => self.draw_publication(now),
            46..90 => self.draw_for_a_task(),
            _ => self.draw_for_authority(),
        }
    }

    fn draw_for_an_account(&mut self) -> Call {
        let (who, amount) = (self.holder(), self.amount());
        match self.dice.below(9) {
            0..3 => {
                let account = self.stage.address(self.dice.pick(&[who, Role::Client]).expect("there are two"));
                let value = self.dice.below(4 * AMOUNT_MAX);
                Call { value, ..self.vault_call("deposit", who, Vault::depositCall { account }) }
            }
            3 => self.vault_call("withdraw", who, Vault::withdrawCall { amount }),
            4 | 5 => self.vault_call("lock", who, Vault::lockCall { amount }),
            6 => self.vault_call("unbond", who, Vault::unbondCall { amount }),
            7 => self.vault_call("cancelUnbonding", who, Vault::cancelUnbondingCall {}),
            _ => self.vault_call("claim", who, Vault::claimCall {}),
        }
    }

    fn draw_publication(&mut self, now: u64) -> Call {
        let task = TaskParams {
            source: self.dice.pick(&self.sources).expect("there are two"),
            config: String::new(),
            expiryTime: U256::from(now + 1 + self.dice.below(EXPIRY_S)),
            payment: self.amount(),
        };
        self.controller_call("publishTask", Controller::publishTaskCall { _taskParams: task })
    }

    fn draw_for_a_task(&mut self) -> Call {
        let (task, amount, provider) = (self.task(), self.amount(), self.provider());
        let named = self.stage.address(provider);
        match self.dice.below(20) {
            0..8 => {
                let suggested = if self.dice.below(4) == 0 { amount } else { U256::from(self.dice.below(10)) };
                let call = Nexus::attemptCall { task, provider: named, suggestedPayment: suggested };
                self.nexus_call("attempt", provider, call)
            }
            8..15 => {
                self.payloads += 1;
                let data = self.payloads.to_string();
                let payment = U256::from(self.dice.below(8));
                let answer = ResponseParams { task, provider: named, data, payment };
                self.nexus_call("submitResponse", provider, Nexus::submitResponseCall { _responseParams: answer })
            }
            15 | 16 => {
                let first = self.responses.len().saturating_sub(TASKS_IN_PLAY);
                let response = self.dice.pick(&self.responses[first..]).unwrap_or(Address::ZERO);
                self.controller_call("confirmResponse", Controller::confirmResponseCall { response })
            }
            17 => self.controller_call("cancelTask", Controller::cancelTaskCall { task }),
            _ => {
                let client = self.stage.address(Role::Client);
                // Any task, so that the long expired ones are freed too.
                let task = self.dice.pick(&self.tasks).unwrap_or(task);
                self.vault_call("forceRelease", Role::Client, Vault::forceReleasePaymentCall { client, task })
            }
        }
    }

    /// The judge's and the administrator's calls, a master's announcement, and the escrow's doors tried by a thief.
    fn draw_for_authority(&mut self) -> Call {
        let (account, amount, task) = (self.holder(), self.amount(), self.task());
        let account = self.stage.address(account);
        let client = self.stage.address(Role::Client);
        match self.dice.below(12) {
            0..3 => self.vault_call("sanction", Role::Judge, Vault::sanctionCall { account, amount }),
            3..6 => self.vault_call("waive", Role::Judge, Vault::waiveCall { account, amount }),
            6 => self.vault_call("withdrawSanctionOf", Role::Deployer, Vault::withdrawSanctionOfCall { account }),
            7 => self.vault_call("emergencyExit", Role::Deployer, Vault::emergencyExitCall { account }),
            8 | 9 => {
                let provider = self.stage.address(Role::Spare1);
                let call = Terminal::announceProviderCall { provider, amount };
                let value = u64::try_from(amount).expect("amounts are small") + self.dice.below(3);
                let to = self.stage.contracts().terminal;
                Call { to, value, ..self.vault_call("announceProvider", Role::Master, call) }
            }
            10 => self.vault_call("theft by release", Role::Spare3, Vault::releasePaymentCall { client, task }),
            _ => {
                let provider = self.stage.address(Role::Spare2);
                let call = Vault::processPaymentCall { client, provider, task, amount };
                self.vault_call("theft by payment", Role::Spare3, call)
            }
        }
    }

    /// Sends one round of calls and mines them into one block.
    async fn play(&mut self, calls: Vec<Call>) {
        let chain = self.stage.chain.clone();
        let mut batch = BatchRequest::new(chain.client());
        let sent: Vec<_> = calls
            .iter()
            .map(|call| {
                let request = TransactionRequest {
                    from: Some(call.from),
                    to: Some(call.to.into()),
                    value: Some(U256::from(call.value)),
                    input: Bytes::from(call.input.clone()).into(),
                    gas: Some(GAS_MAX),
                    ..TransactionRequest::default()
                };
                batch
                    .add_call::<_, alloy::primitives::B256>("eth_sendTransaction", &(request,))
                    .expect("a request is JSON")
            })
            .collect();
        batch.send().await.expect("anvil answers");
        let mut hashes = Vec::new();
        for waiter in sent {
            hashes.push(waiter.await.expect("anvil takes any transaction that can pay for its gas"));
        }
        chain.evm_mine(None).await.expect("anvil mines");
        let receipts = chain.get_block_receipts(BlockId::latest()).await.expect("anvil answers").unwrap_or_default();
        assert_eq!(receipts.len(), calls.len(), "a round is a block");
        for (call, hash) in calls.iter().zip(hashes) {
            let receipt = receipts.iter().find(|receipt| receipt.transaction_hash == hash);
            self.learn(call.kind, receipt.expect("what was sent was mined"));
        }
    }

    fn learn(&mut self, kind: &'static str, receipt: &TransactionReceipt) {
        if !receipt.status() {
            return;
        }
        *self.succeeded.entry(kind).or_default() += 1;
        self.tasks.extend(events::<Nexus::TaskPublished>(receipt).iter().map(|event| event.task));
        self.responses.extend(events::<Nexus::ResponseSubmitted>(receipt).iter().map(|event| event.response));
    }

    /// Every coin in the vault by where it is, against what the vault owns.
    async fn weigh(&self) -> (U256, U256) {
        let vault = self.stage.contracts().vault;
        let chain = &self.stage.chain;
        let mut batch = BatchRequest::new(chain.client());
        let mut ask = |input: Vec<u8>| {
            let request =
                TransactionRequest { to: Some(vault.into()), input: Bytes::from(input).into(), ..Default::default() };
            batch.add_call::<_, Bytes>("eth_call", &(request, "latest")).expect("a request is JSON")
        };
        let mut places = vec![ask(Vault::sanctionedAmountCall {}.abi_encode())];
        for role in HOLDERS.into_iter().chain([Role::Deployer]) {
            let account = self.stage.address(role);
            places.push(ask(Vault::balanceOfCall(account).abi_encode()));
            places.push(ask(Vault::lockupOfCall(account).abi_encode()));
            places.push(ask(Vault::unbondingOfCall(account).abi_encode()));
            places.push(ask(Vault::frozenPaymentCall(account).abi_encode()));
        }
        batch.send().await.expect("anvil answers");
        let mut sum = U256::ZERO;
        for place in places {
            sum += U256::from_be_slice(&place.await.expect("a view answers"));
        }
        (sum, chain.get_balance(vault).await.expect("anvil answers"))
    }

    /// The escrow of each task ever published, summed: it must be what the client has in escrow.
    async fn escrow_of_all_tasks(&self) -> U256 {
        let mut sum = U256::ZERO;
        for task in &self.tasks {
            sum += self.stage.frozen(*task).await;
        }
        sum
    }
}

async fn publish_source(stage: &Stage, method: u8) -> Address {
    let params = SourceParams {
        client: stage.address(Role::Client),
        imageMetadataUrl: String::new(),
        imageEnvironments: 1,
        minPayment: U256::ZERO,
        minAvailableLockup: U256::ZERO,
        maxExpiryDuration: U256::from(2 * EXPIRY_S),
        privacyEnabled: false,
        optionalParamsUrl: String::new(),
        deliveryMethod: method,
        lastUpdateTime: U256::ZERO,
    };
    let call = Nexus::publishSourceCall { _sourceParams: params };
    let receipt = stage.send(stage.address(Role::Client), stage.contracts().nexus, call).await.expect("a client may");
    events::<Nexus::SourcePublished>(&receipt).first().expect("it tells the source").source
}

fn seed() -> u64 {
    let given = env::var("CONSERVATION_SEED").ok().and_then(|text| text.parse().ok());
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    given.unwrap_or_else(clock)
}

#[tokio::test]
async fn a15_no_sequence_of_10_000_calls_makes_or_loses_a_coin() {
    let seed = seed();
    let mut world = World::new(seed).await;
    let mut now = world.stage.now().await;
    let mut made = 0;
    while made < CALLS {
        let calls: Vec<_> = (0..ROUND).map(|_| world.draw(now)).collect();
        let kinds: Vec<_> = calls.iter().map(|call| call.kind).collect();
        world.play(calls).await;
        now += BLOCK_S;
        made += ROUND;
        let (placed, owned) = world.weigh().await;
        assert_eq!(placed, owned, "after {made} calls, the last of them {kinds:?}; CONSERVATION_SEED={seed}");
    }
    let in_escrow = world.stage.frozen(world.stage.address(Role::Client)).await;
    assert_eq!(world.escrow_of_all_tasks().await, in_escrow, "CONSERVATION_SEED={seed}");
    check_that_much_happened(&world.succeeded, seed);
}

/// Guards against a generator that only makes calls which fail.
fn check_that_much_happened(succeeded: &BTreeMap<&'static str, usize>, seed: u64) {
    let total: usize = succeeded.values().sum();
    assert!(total > CALLS / 4, "only {total} calls succeeded: {succeeded:?}; CONSERVATION_SEED={seed}");
    for kind in [
        "deposit",
        "withdraw",
        "lock",
        "unbond",
        "cancelUnbonding",
        "claim",
        "publishTask",
        "attempt",
        "submitResponse",
        "confirmResponse",
        "cancelTask",
        "forceRelease",
        "sanction",
        "waive",
        "withdrawSanctionOf",
        "emergencyExit",
        "announceProvider",
    ] {
        assert!(succeeded.contains_key(kind), "no {kind} succeeded: {succeeded:?}; CONSERVATION_SEED={seed}");
    }
    let thefts = succeeded.keys().filter(|kind| kind.starts_with("theft")).count();
    assert_eq!(thefts, 0, "{succeeded:?}; CONSERVATION_SEED={seed}");
}
