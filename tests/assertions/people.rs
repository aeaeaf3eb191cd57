//! Assertions 17 to 20 and 30: who is whose, and who may act for whom.

use alloy::primitives::U256;
use chain::abi::{Nexus, Terminal};
use provisioning::devnet::Role;
use serde_json::{Value, json};
use testbed::stage::{PAYMENT, Stage, Terms, address, shown};

const CLAIM_PROVIDER: &str = "Master(ADDRESS['master']).announce_provider(ADDRESS['spare1'], 0, signer=KEY['master'])";
const CLAIM_MASTER: &str = "Provider(ADDRESS['spare1']).announce_master(ADDRESS['master'], signer=KEY['spare1'])";

async fn check_pairing(first: &str, second: &str) {
    let stage = Stage::up().await;
    stage.ask(first, json!({})).await;
    stage.ask(second, json!({})).await;
    let told = stage
        .ask(
            "provider, master = Provider.load(ADDRESS['spare1']), Master.load(ADDRESS['master'])
[provider.get_master() == ADDRESS['master'], master.get_provider() == ADDRESS['spare1'], provider.is_provider(),
 master.is_master()]",
            json!({}),
        )
        .await;
    assert_eq!(told, json!([true, true, true, true]));
    stage.refused("ProviderNotFoundError", "Provider.load(ADDRESS['spare2'])", json!({})).await;
    stage.refused("MasterNotFoundError", "Master.load(ADDRESS['spare3'])", json!({})).await;
}

#[tokio::test]
async fn a17_pairing_works_when_the_master_speaks_first() {
    check_pairing(CLAIM_PROVIDER, CLAIM_MASTER).await;
}

#[tokio::test]
async fn a17_pairing_works_when_the_provider_speaks_first() {
    check_pairing(CLAIM_MASTER, CLAIM_PROVIDER).await;
}

#[tokio::test]
async fn a18_an_agent_is_named_and_dismissed_as_often_as_one_likes() {
    let stage = Stage::up().await;
    let (master, agent) = (stage.address(Role::Master), stage.address(Role::Agent));
    for value in [true, true, false, false, true] {
        let told = stage
            .ask(
                "receipt = Master(ADDRESS['master']).set_agent(ADDRESS['agent'], value, signer=KEY['master'])
{'logs': logs_of(receipt, 'TerminalAbi'), 'now': terminal.is_agent_of(ADDRESS['master'], ADDRESS['agent'])}",
                json!({ "value": value }),
            )
            .await;
        assert_eq!(told["now"], value);
        assert_eq!(told["logs"][0]["event"], "AgentSet");
        let expected = json!({ "account": shown(master), "agent": shown(agent), "value": value });
        assert_eq!(told["logs"][0]["args"], expected);
    }
}

#[tokio::test]
async fn a19_a_provider_its_master_and_the_masters_agent_may_register_it_and_no_stranger() {
    let stage = Stage::up().await;
    stage.pair(Role::Spare1, Role::Master, 0).await;
    stage.ask("Master(ADDRESS['master']).set_agent(ADDRESS['agent'], True, signer=KEY['master'])", json!({})).await;
    let source = stage.source(Terms::FIRST).await;
    let provider = stage.address(Role::Spare1);
    let register = "logs_of(nexus.register(source, ADDRESS['spare1'], 1, signer=KEY[who]), 'NexusAbi')";
    let by = |who: &str| json!({ "source": shown(source), "who": who });

    stage.refused("NotProviderError", register, by("spare2")).await;
    for who in ["spare1", "master", "agent"] {
        let logs: Value = stage.ask(register, by(who)).await;
        assert_eq!(logs[0]["event"], "Registered", "{who}");
        assert_eq!(logs[0]["args"]["preferredEnvironment"], 1);
        assert_eq!(address(&logs[0]["args"]["provider"]), provider);
        let id = stage.ask_wei("Source(source).get_registrant_id(ADDRESS['spare1'])", by(who)).await;
        assert!(id >= U256::ONE);
        assert_eq!(id, stage.registrant_id(source, provider).await);
        stage.ask("agent.unregister_from(source, ADDRESS['spare1'], private_key=KEY[who])", by(who)).await;
        assert_eq!(stage.registrant_id(source, provider).await, U256::ZERO);
    }
}

#[tokio::test]
async fn a20_a_provider_needs_the_lockup_that_the_source_asks_for() {
    let stage = Stage::up().await;
    stage.pair(Role::Spare1, Role::Master, PAYMENT - 1).await;
    let source = stage.source(Terms { lockup_wei: PAYMENT, ..Terms::FIRST }).await;
    let with = json!({ "source": shown(source) });
    let register = "Provider(ADDRESS['spare1']).register_to(source, 1, signer=KEY['spare1'])";
    stage.refused("InsufficientLockupError", register, with.clone()).await;
    let top_up = "
vault.deposit(ADDRESS['spare1'], 1, signer=KEY['master'])
vault.lock(1, signer=KEY['spare1'])";
    stage.ask(top_up, json!({})).await;
    stage.ask(register, with).await;
}

#[tokio::test]
async fn a30_only_the_paired_master_removes_a_container_or_the_provider() {
    let stage = Stage::up().await;
    stage.pair(Role::Spare1, Role::Master, 0).await;
    let source = stage.source(Terms::FIRST).await;
    let stop = "logs_of(terminal.remove_container(ADDRESS['spare1'], source, signer=KEY[who]), 'TerminalAbi')";
    let by = |who: &str| json!({ "source": shown(source), "who": who });
    stage.refused("NotMasterError", stop, by("spare2")).await;
    let logs = stage.ask(stop, by("master")).await;
    let provider = stage.address(Role::Spare1);
    assert_eq!(logs[0]["event"], "RemoveContainer");
    assert_eq!(logs[0]["args"], json!({ "provider": shown(provider), "source": shown(source) }));

    let part = "terminal.remove_provider(ADDRESS['spare1'], signer=KEY[who])";
    stage.refused("NotMasterError", part, by("spare2")).await;
    stage.ask(part, by("master")).await;
    let told =
        stage.ask("[terminal.get_master_of(ADDRESS['spare1']), terminal.is_provider(ADDRESS['spare1'])]", json!({}));
    assert_eq!(told.await, json!([format!("0x{}", "0".repeat(40)), false]));
    // What was earned as a provider ends with it: it can no longer describe itself or take work.
    let terminal = stage.contracts().terminal;
    assert!(stage.send(provider, terminal, Terminal::setBaseDataCall { _baseData: "x".to_owned() }).await.is_err());
    let register = Nexus::registerCall { source, provider, preferredEnvironment: 1 };
    assert!(stage.send(provider, stage.contracts().nexus, register).await.is_err());
}
