// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

/// @title Page bounds of the list getters
/// @notice Both bounds of a page are inclusive (evidence: SDK change log, verified on mainnet).
library Pages {
    /// @notice How many items the page `lower..upper` of a list of `count` items holds.
    /// @dev As deployed on mainnet the bounds are not checked, and reading past the end panics with 0x32 in the
    /// caller. Repaired, the page is cut at the end of the list, and a page beyond the end is empty.
    function length(uint256 lower, uint256 upper, uint256 count, bool repaired) internal pure returns (uint256) {
        if (!repaired) return upper - lower + 1;
        if (upper >= count) upper = count == 0 ? 0 : count - 1;
        return lower >= count || lower > upper ? 0 : upper - lower + 1;
    }

    /// @notice The page `lower..upper` of `items`, with the fault of the mainnet Source getters unless `repaired`.
    /// @dev The fault (evidence: SDK change log): the result is indexed like the list instead of from zero, so every
    /// page with `lower > 0` panics with 0x32.
    function read(address[] storage items, uint256 lower, uint256 upper, bool repaired)
        internal
        view
        returns (address[] memory page)
    {
        page = new address[](length(lower, upper, items.length, repaired));
        uint256 first = repaired ? 0 : lower;
        for (uint256 i = 0; i < page.length; i++) {
            page[first + i] = items[lower + i];
        }
    }
}
