// What a replica is worth in bits, read off the curve of the single replica: eta of strategies that no weight of a
// linear stands for, and of whole models.
#pragma once

#include <optional>
#include <utility>
#include <vector>

namespace experiments {

struct KlExchange {
  double equal_bits;          // b*: bits per weight at which the curve reaches the KL
  double gain_bits;           // b* − b of the single replica
  std::optional<double> eta;  // gain_bits / d, d = bits of the replica − b; none for |d| < 0.005
};

// curve: (bits per weight, KL) of plain runs, in any order; between neighbours log KL is linear. kl, bits: of the
// replica. None when the curve does not reach the KL.
std::optional<KlExchange> kl_exchange(std::vector<std::pair<double, double>> curve, double kl, double bits,
                                      double single_bits);

}  // namespace experiments
