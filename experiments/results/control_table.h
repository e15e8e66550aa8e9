// Replica against control: the table that says whether replication bought anything that the same bits would not have
// bought otherwise.
#pragma once

#include <string>
#include <vector>

#include "experiments/config/points.h"
#include "experiments/results/kl_curve.h"
#include "experiments/results/table.h"

namespace experiments {

// points: of one file; rows: their results, in their order (experiments/run/runner.h); directories: of the runs. One
// row per replica, control and measurement: bits per weight here and at 4096 × 4096 of both, the mean NLL of both, the
// difference with its paired 95 % interval over windows, of every seed and draw, and a verdict. Empty without controls.
// A row `curve` says instead at how many bits the single replica is as close to full precision.
Table control_table(const std::vector<Point>& points, const std::vector<Row>& rows,
                    const std::vector<std::string>& directories);

// By the curve of the single replica of the same seed, on the first measurement; none where it was not run, or does not
// reach. replica: index of a point.
std::optional<KlExchange> kl_exchange_of(const std::vector<Point>& points, const std::vector<Row>& rows,
                                         size_t replica);

}  // namespace experiments
