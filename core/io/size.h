// Sizes as people write them on a command line.
#pragma once

#include <cstdint>
#include <string>

namespace core {

// "20GB", "512M", "1.5G", "100 kB", "0", "4GiB" -> bytes. k, M, G, T (in any case) are powers of 1,000, with an `i`
// powers of 1,024; B may be left out. `where` names the option in the message of the UserError.
int64_t parse_size(const std::string& text, const std::string& where);

}  // namespace core
