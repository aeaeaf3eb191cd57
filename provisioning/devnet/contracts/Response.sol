// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {IResponse} from "./Interfaces.sol";
import {ResponseParams, ResponseStatus} from "./Types.sol";

/// @title One provider's answer to one task
/// @notice Created and owned by Nexus, which alone may change it (owner is a guess forced by the constructor).
contract Response is IResponse, Ownable {
    ResponseParams public responseParams;
    ResponseStatus public status;
    bool public confirmedFinal;
    uint256 public responseTimestamp;

    constructor(ResponseParams memory _responseParams) payable Ownable(msg.sender) {
        responseParams = _responseParams;
        responseTimestamp = block.timestamp;
    }

    /// @notice Accepts the answer, once and for good. Reverts with AlreadyConfirmed.
    function confirm() external onlyOwner {
        require(!confirmedFinal, "AlreadyConfirmed");
        confirmedFinal = true;
        status = ResponseStatus.CONFIRMED;
    }

    function setStatus(ResponseStatus _status) external onlyOwner {
        status = _status;
    }

    function getResponseParams() external view returns (ResponseParams memory) {
        return responseParams;
    }

    function getStatus() external view returns (ResponseStatus) {
        return status;
    }
}
