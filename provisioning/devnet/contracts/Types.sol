// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

// The nouns that every contract of the devnet shares. Names, order and widths are the SDK's ABI (evidence);
// a reordered field or member would still compile and would silently change what clients decode.

enum SourceStatus {
    ACTIVE,
    INACTIVE
}

enum TaskStatus {
    NEW,
    ATTEMPTED,
    RESPONDED,
    CANCELED,
    EXPIRED,
    FINALIZED
}

enum ResponseStatus {
    SUBMITTED,
    CONFIRMED
}

enum DeliveryMethod {
    MANUAL_CONFIRMATION,
    FIRST_RESPONSE
}

/// `imageEnvironments` is a bit mask: 1 CPU, 2 NVIDIA, 4 AMD. Payments and lockups are wei, times are Unix seconds.
struct SourceParams {
    address client;
    string imageMetadataUrl;
    uint8 imageEnvironments;
    uint256 minPayment;
    uint256 minAvailableLockup;
    uint256 maxExpiryDuration;
    bool privacyEnabled;
    string optionalParamsUrl;
    DeliveryMethod deliveryMethod;
    uint256 lastUpdateTime;
}

struct TaskParams {
    address source;
    string config;
    uint256 expiryTime;
    uint256 payment;
}

struct ResponseParams {
    address task;
    address provider;
    string data;
    uint256 payment;
}

// Role ids. Guess: the values on the real network are unknown, so clients read them and never hard-code them.
bytes32 constant ROLE_ADMIN = 0x00;
bytes32 constant ROLE_CONTROLLER = keccak256("CONTROLLER");
bytes32 constant ROLE_JUDGE = keccak256("JUDGE");
bytes32 constant ROLE_PROVIDER = keccak256("PROVIDER");
bytes32 constant ROLE_TERMINAL = keccak256("TERMINAL");
