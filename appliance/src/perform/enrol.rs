//! Enrolment: naming the owner, saying what this rig is, locking stake.

use alloy::sol_types::SolCall;
use alloy_primitives::U256;
use chain::abi::{Terminal, Vault};
use chain::read;
use work::step::Trouble;
use work::{News, ProviderId};

use super::{Performer, READ_BACK_EVERY, READ_BACK_TRIES, trouble_of, weather};
use work::enrolment::Standing;

/// The file name under which base data is published.
const BASE_DATA_NAME: &str = "baseData.json";

impl Performer {
    /// Names the owner on chain, unless that is done.
    pub(super) async fn announce(&self) -> Result<News, Trouble> {
        let before = self.standing().await?;
        let is_done = |now: &Standing| now.master.is_some();
        if is_done(&before) {
            return Ok(News::Stood { standing: before });
        }
        let data = Terminal::announceMasterCall { master: self.owner }.abi_encode();
        // A rig that was removed and is paired again names its owner once more; what the account holds tells them apart.
        self.submit(format!("announce:{}", before.gas_wei), self.rpc.network().contracts.terminal, data).await?;
        self.read_standing_back(is_done).await
    }

    /// Publishes what this rig is and sets its link, unless the chain names it already.
    pub(super) async fn describe(&self) -> Result<News, Trouble> {
        let cid = chain::content::cid::cid_of(&self.base_data).to_string();
        let before = self.standing().await?;
        let is_done = |now: &Standing| now.base_data_url.ends_with(&cid);
        if is_done(&before) {
            return Ok(News::Stood { standing: before });
        }
        let pinned = self.content.pin(BASE_DATA_NAME, "application/json", self.base_data.clone()).await;
        let link = pinned.map_err(|e| trouble_of(&e, e.is_final()))?.url.to_string();
        if !link.ends_with(&cid) {
            return Err(Trouble::passing(format!("the pin service gave {link} for a document with CID {cid}")));
        }
        let data = Terminal::setBaseDataCall { _baseData: link }.abi_encode();
        self.submit(format!("describe:{cid}:{}", before.gas_wei), self.rpc.network().contracts.terminal, data).await?;
        self.read_standing_back(is_done).await
    }

    /// Locks the free balance of our vault account, unless it is locked.
    pub(super) async fn lock(&self, amount_wei: U256) -> Result<News, Trouble> {
        let before = self.standing().await?;
        let is_done = |now: &Standing| now.vault_wei < amount_wei;
        if is_done(&before) {
            return Ok(News::Stood { standing: before });
        }
        let data = Vault::lockCall { amount: amount_wei }.abi_encode();
        // Each stake is an effect of its own, also the same one after a way home: what there was before it tells them apart.
        let key = format!("lock:{amount_wei}:{}:{}", before.lockup_wei, before.gas_wei);
        self.submit(key, self.rpc.network().contracts.vault, data).await?;
        self.read_standing_back(is_done).await
    }

    /// Our standing, if it is as wanted already.
    async fn stands(&self, is_done: impl Fn(&Standing) -> bool) -> Result<Option<News>, Trouble> {
        let standing = self.standing().await?;
        Ok(is_done(&standing).then_some(News::Stood { standing }))
    }

    /// Our standing now.
    pub(super) async fn standing(&self) -> Result<Standing, Trouble> {
        read::standing(&self.rpc, self.provider(), ProviderId(self.owner)).await.map_err(|e| weather(&e))
    }

    pub(super) async fn read_standing_back(&self, is_done: impl Fn(&Standing) -> bool) -> Result<News, Trouble> {
        for _ in 0..READ_BACK_TRIES {
            if let Some(done) = self.stands(&is_done).await? {
                return Ok(done);
            }
            tokio::time::sleep(READ_BACK_EVERY).await;
        }
        Err(Trouble::passing("the transaction is mined, and the chain does not show its effect yet"))
    }
}
