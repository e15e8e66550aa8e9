// Parity-sign replicas (S1; replication/parity_sign.h) as a strategy.
#include "replication/parity_sign.h"

#include "replication/strategy.h"

namespace replication {

namespace {

struct ParitySign : LinearStrategy {
  int64_t replicas = 2;
  int64_t window_bits = 12;

  std::string summary() const override {
    return "uses of the same codes, shifted, with signs that a window of codes decides";
  }
  void keys(core::Keys& k) override {
    k.key("replicas", replicas, "uses of the same codes, each with a sign of its own", {2, 4});
    k.key("window_bits", window_bits, "bits of the codes that decide the signs; a multiple of quant.weight.bits",
          {2, 16});
  }
  std::vector<std::string> unread() const override { return window_unread(); }
  std::shared_ptr<const quant::WeightFormat> format(const quant::WeightConfig& weight, const quant::Place& place,
                                                    const Shape& shape) const override {
    WindowFamily family = parity_sign(weight.bits, replicas, window_bits, place.path);
    family.description = description("parity_sign", *this);
    return std::make_shared<WindowFormat>(weight, place, family, shape.out_features, shape.in_features);
  }
};

}  // namespace

core::Polymorphic<Strategy> make_parity_sign() { return ParitySign{}; }

}  // namespace replication
