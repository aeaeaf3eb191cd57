//! Puts the contracts on a fresh chain.
//!
//! The order is that of the comment at the top of `devnet/contracts/Manager.sol`. An address follows from the deployer
//! and its nonce, so every transaction is signed and sent without waiting for the one before, and one block usually
//! holds them all.
//!
//! These transactions do not pass through `chain::outbox`, which is for keys with value on chains that re-organise:
//! here the chain is ours, lives on this machine, and is thrown away together with a deployment that went wrong.

use std::time::Duration;

use alloy::consensus::{SignableTransaction, TxEip1559};
use alloy::eips::eip2718::Encodable2718;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy::providers::ext::AnvilApi;
use alloy::providers::{Provider, RootProvider};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolValue};
use alloy::transports::TransportError;
use chain::abi::{Manager, Nexus, Terminal, Vault};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout_at};

use super::accounts::{Account, Role};
use super::anvil::CHAIN_ID;

/// Above what any of them uses; the largest, Nexus, takes five million.
const GAS_PER_TRANSACTION: u64 = 12_000_000;

/// A hundred times the base fee of a fresh chain.
const MAX_FEE_WEI: u128 = 100_000_000_000;

/// All of it takes well under a second on an idle machine.
const DEPLOY_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two looks for the receipts.
const RECEIPT_POLL: Duration = Duration::from_millis(20);

/// The contracts that are deployed by hand: creation code, compiled by `devnet/compile.mjs`.
mod artifact {
    pub(super) const MANAGER: &str = include_str!("../../devnet/artifacts/Manager.json");
    pub(super) const TERMINAL: &str = include_str!("../../devnet/artifacts/Terminal.json");
    pub(super) const NEXUS: &str = include_str!("../../devnet/artifacts/Nexus.json");
    pub(super) const VAULT: &str = include_str!("../../devnet/artifacts/Vault.json");
    pub(super) const CONTROLLER: &str = include_str!("../../devnet/artifacts/Controller.json");
    pub(super) const ALL: [&str; 5] = [MANAGER, TERMINAL, NEXUS, VAULT, CONTROLLER];
}

alloy::sol! {
    /// What the local contracts have beyond the SDK's ABIs.
    interface Extra {
        function setDefaultAgent(address agent) external;
        function setOpenPublish(bool value) external;
        function setPagesRepaired(bool value) external;
    }
}

/// Where the contracts stand. Names and checksums as the SDK wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub struct DevnetContracts {
    /// The registry.
    #[serde(with = "super::checksummed")]
    pub nexus: Address,
    /// The client's side.
    #[serde(with = "super::checksummed")]
    pub controller: Address,
    /// Identities.
    #[serde(with = "super::checksummed")]
    pub terminal: Address,
    /// The money.
    #[serde(with = "super::checksummed")]
    pub vault: Address,
    /// Roles.
    #[serde(with = "super::checksummed")]
    pub manager: Address,
}

/// How the contracts behave where the real ones are unknown. The default is that of `protocol.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContractSettings {
    /// From `unbond` to `claim`, in seconds. The contract's own default is 5.
    pub unbonding_period_s: Option<u64>,
    /// Lockup that a client needs for each active source, in wei. The contract's own default is 0.
    pub min_lockup_per_source_wei: Option<U256>,
    /// Makes the account [`Role::Agent`] the network's default agent.
    pub has_default_agent: bool,
    /// Lets strangers publish tasks to a source, at their own expense.
    pub is_publish_open: bool,
    /// Gives ranges their plain meaning instead of the real network's faults.
    pub are_pages_repaired: bool,
}

/// Why the contracts are not there.
#[derive(Debug, Error)]
pub enum DeployError {
    /// The embedded artifact is damaged.
    #[error("read the embedded artifact of a contract")]
    Artifact(#[source] serde_json::Error),
    /// The chain did not answer.
    #[error("{what}")]
    Chain {
        /// What was asked of it.
        what: &'static str,
        /// Its answer.
        #[source]
        source: TransportError,
    },
    /// A transaction failed on the chain.
    #[error("{what}: reverted")]
    Reverted {
        /// The step that failed.
        what: &'static str,
    },
    /// The blocks did not come.
    #[error("the deployment was not mined within {} s", DEPLOY_TIMEOUT.as_secs())]
    Slow,
    /// The contracts did not answer as they should afterwards.
    #[error("read back the deployment")]
    ReadBack(#[source] alloy::contract::Error),
}

#[derive(Deserialize)]
struct Artifact {
    bytecode: Bytes,
}

/// One deployer's run of transactions.
struct Deployment<'a> {
    provider: &'a RootProvider,
    deployer: PrivateKeySigner,
    nonce: u64,
    sent: Vec<(&'static str, B256)>,
}

/// Identifies what [`deploy`] would put on a chain, so that a chain kept on disk is not mistaken for another version's.
pub(super) fn fingerprint() -> B256 {
    keccak256(artifact::ALL.concat())
}

/// Deploys everything, as the first of `accounts` whose role is deployer, and waits until it is mined.
pub(super) async fn deploy(
    provider: &RootProvider,
    accounts: &[Account],
    settings: &ContractSettings,
) -> Result<DevnetContracts, DeployError> {
    let of = |role| accounts.iter().find(|account| account.role == role).expect("every role has an account");
    let deployer = of(Role::Deployer).signer();
    let nonce = ask("read the deployer's nonce", provider.get_transaction_count(deployer.address())).await?;
    let mut run = Deployment { provider, deployer, nonce, sent: Vec::new() };
    let contracts = run.create_all().await?;
    run.grant_roles(&contracts, of(Role::Judge).address).await?;
    run.apply(settings, &contracts, of(Role::Agent).address).await?;
    timeout_at(Instant::now() + DEPLOY_TIMEOUT, run.mined()).await.map_err(|_| DeployError::Slow)??;
    Ok(contracts)
}

/// The vault's cooldown in seconds, as the contract says it.
pub(super) async fn unbonding_period_s(provider: &RootProvider, vault: Address) -> Result<u64, DeployError> {
    let period = Vault::new(vault, provider).UNBONDING_PERIOD().call().await.map_err(DeployError::ReadBack)?;
    Ok(u64::try_from(period).unwrap_or(u64::MAX))
}

// === impl Deployment ===

impl Deployment<'_> {
    /// Steps 1 to 7.
    async fn create_all(&mut self) -> Result<DevnetContracts, DeployError> {
        let none = Address::ZERO;
        let manager = self.create("create Manager", artifact::MANAGER, Vec::new()).await?;
        let terminal = self.create("create Terminal", artifact::TERMINAL, (manager, none).abi_encode_params()).await?;
        let nexus = self.create("create Nexus", artifact::NEXUS, (manager, terminal, none).abi_encode_params()).await?;
        let vault =
            self.create("create Vault", artifact::VAULT, (manager, nexus, terminal).abi_encode_params()).await?;
        self.call("give Terminal its vault", terminal, &Terminal::setVaultCall { _vault: vault }).await?;
        self.call("give Nexus its vault", nexus, &Nexus::setVaultCall { _vault: vault }).await?;
        let arguments = (nexus, terminal, vault).abi_encode_params();
        let controller = self.create("create Controller", artifact::CONTROLLER, arguments).await?;
        Ok(DevnetContracts { nexus, controller, terminal, vault, manager })
    }

    /// Steps 8 to 11. Role ids are `keccak256` of their names in these contracts; see `devnet/contracts/Types.sol`.
    async fn grant_roles(&mut self, contracts: &DevnetContracts, judge: Address) -> Result<(), DeployError> {
        let grants = [
            ("make Controller a controller", "CONTROLLER", contracts.controller),
            ("make Nexus a controller", "CONTROLLER", contracts.nexus),
            ("let Terminal grant PROVIDER", "TERMINAL", contracts.terminal),
            ("name the judge", "JUDGE", judge),
        ];
        for (what, role, account) in grants {
            let grant = Manager::grantRoleCall { role: keccak256(role), account };
            self.call(what, contracts.manager, &grant).await?;
        }
        Ok(())
    }

    async fn apply(
        &mut self,
        settings: &ContractSettings,
        contracts: &DevnetContracts,
        agent: Address,
    ) -> Result<(), DeployError> {
        if let Some(seconds) = settings.unbonding_period_s {
            let call = Vault::setMaxUnbondingPeriodCall { period: U256::from(seconds) };
            self.call("set the unbonding period", contracts.vault, &call).await?;
        }
        if let Some(amount) = settings.min_lockup_per_source_wei {
            self.call("set the lockup per source", contracts.vault, &Vault::setMinLockupPerSourceCall { amount })
                .await?;
        }
        if settings.has_default_agent {
            self.call("name the default agent", contracts.terminal, &Extra::setDefaultAgentCall { agent }).await?;
        }
        if settings.is_publish_open {
            let call = Extra::setOpenPublishCall { value: true };
            self.call("let strangers publish", contracts.controller, &call).await?;
        }
        if settings.are_pages_repaired {
            self.call("repair the pages", contracts.nexus, &Extra::setPagesRepairedCall { value: true }).await?;
        }
        Ok(())
    }

    async fn create(&mut self, what: &'static str, artifact: &str, arguments: Vec<u8>) -> Result<Address, DeployError> {
        let artifact: Artifact = serde_json::from_str(artifact).map_err(DeployError::Artifact)?;
        let address = self.deployer.address().create(self.nonce);
        let code = [artifact.bytecode.as_ref(), &arguments].concat();
        self.send(what, TxKind::Create, code.into()).await?;
        Ok(address)
    }

    async fn call(&mut self, what: &'static str, to: Address, call: &impl SolCall) -> Result<(), DeployError> {
        self.send(what, TxKind::Call(to), call.abi_encode().into()).await
    }

    async fn send(&mut self, what: &'static str, to: TxKind, input: Bytes) -> Result<(), DeployError> {
        let transaction = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce: self.nonce,
            gas_limit: GAS_PER_TRANSACTION,
            max_fee_per_gas: MAX_FEE_WEI,
            max_priority_fee_per_gas: 0,
            to,
            input,
            ..TxEip1559::default()
        };
        let signature =
            self.deployer.sign_hash_sync(&transaction.signature_hash()).expect("a local key signs any hash");
        let raw = transaction.into_signed(signature).encoded_2718();
        let pending = ask(what, self.provider.send_raw_transaction(&raw)).await?;
        self.sent.push((what, *pending.tx_hash()));
        self.nonce += 1;
        Ok(())
    }

    /// Mines until every transaction has a receipt. Asking for a block works in every mining mode, and spares a chain
    /// with a long block time the wait.
    async fn mined(&self) -> Result<(), DeployError> {
        for &(what, hash) in &self.sent {
            let receipt = loop {
                if let Some(receipt) = ask(what, self.provider.get_transaction_receipt(hash)).await? {
                    break receipt;
                }
                ask("mine a block", self.provider.anvil_mine(Some(1), None)).await?;
                sleep(RECEIPT_POLL).await;
            };
            if !receipt.status() {
                return Err(DeployError::Reverted { what });
            }
        }
        Ok(())
    }
}

async fn ask<T>(
    what: &'static str,
    answer: impl IntoFuture<Output = Result<T, TransportError>>,
) -> Result<T, DeployError> {
    answer.await.map_err(|source| DeployError::Chain { what, source })
}
