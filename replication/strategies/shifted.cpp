// Shifted replicas (S2; replication/shifted.h) as a strategy.
#include "replication/shifted.h"

#include "replication/strategy.h"

namespace replication {

namespace {

struct Shifted : LinearStrategy {
  int64_t replicas = 2;

  std::string summary() const override { return "uses of the same codes, shifted, each with a table of its own"; }
  void keys(core::Keys& k) override {
    k.key("replicas", replicas, "uses of the same codes, each shifted by one more and with a table of its own", {2, 4});
  }
  std::vector<std::string> unread() const override { return window_unread(); }
  std::shared_ptr<const quant::WeightFormat> format(const quant::WeightConfig& weight, const quant::Place& place,
                                                    const Shape& shape) const override {
    WindowFamily family = shifted(weight.bits, replicas, place.path);
    family.description = description("shifted", *this);
    return std::make_shared<WindowFormat>(weight, place, family, shape.out_features, shape.in_features);
  }
};

}  // namespace

core::Polymorphic<Strategy> make_shifted() { return Shifted{}; }

}  // namespace replication
