// A format turns codes into weights. It is of one of two kinds: in an ElementFormat the code of a weight can be chosen
// alone (grids of scalar levels, quant/grids/scalar_grid.h; row × column scales), in a SequenceFormat it depends on its
// neighbours' codes. A method takes the kinds that it accepts (Method::accepts).
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/config/node.h"
#include "core/state.h"
#include "quant/grids/element_grid.h"
#include "quant/grids/statistics.h"
#include "quant/grids/weight_config.h"

namespace quant {

// One tensor of quantization parameters. Float kinds are float32 whose values are exactly representable in the dtype
// that is stored; codes (core::is_codes) are uint8, packed into `stored_bits` each.
struct Parameter {
  std::string name;  // "scale", "zero_point", ...
  at::Tensor tensor;
  core::Kind kind;
  int64_t stored_bits;                      // per element
  std::vector<int64_t> shape;               // also while the tensor is undefined
  at::ScalarType stored_dtype = at::kHalf;  // of float kinds
};

class Parameters : public std::vector<Parameter> {
 public:
  using std::vector<Parameter>::vector;
  const at::Tensor& at(const std::string& name) const;  // TORCH_CHECKs that it exists
  at::Tensor& at(const std::string& name);
  bool has(const std::string& name) const;
};

struct Encoded {
  at::Tensor codes;  // [O, I] uint8
  Parameters parameters;
};

// Codes of some columns, and what they decode to.
struct EncodedColumns {
  at::Tensor codes, levels;  // [O, n] uint8 and float32
};

// Whether the code of a weight can be chosen alone, or depends on its neighbours' codes.
enum class Order { elementwise, sequence };

// Which linear a format serves: what its random numbers are keyed by.
struct Place {
  std::string path;  // Hugging Face path of the module
  uint64_t seed = 0;
};

// What kernels of packed products (quant/linear/packed_weight.h) need to know: the weight is the levels of `grid` and
// of the `further` grids on the same codes, added up, times Σ_r rows[o, r] columns[i, r] if there are such factors,
// plus b a if there is such a branch.
struct PackedForm {
  ElementGrid grid;                       // its dither is not read
  at::Tensor rows = {}, columns = {};     // [O, R] and [I, R] float32; undefined: ones
  int64_t window_bits = 0;                // L: the table's index is that many bits of codes, the newest lowest
                                          // (replication/tiles.h)
  std::vector<ElementGrid> further = {};  // without tables, with the groups of `grid`
  at::Tensor a = {}, b = {};              // [r, I] and [O, r] float32; undefined: no branch
};

// x: [..., I] -> x Wᵀ, [..., O], with the decoded weight W, however that is computed.
using Multiply = std::function<at::Tensor(const at::Tensor& x)>;

class WeightFormat {
 public:
  explicit WeightFormat(WeightConfig config, Place place = {}) : config_(std::move(config)), place_(std::move(place)) {}
  virtual ~WeightFormat() = default;
  // What it was made from: make_format makes it again.
  const WeightConfig& config() const { return config_; }
  const Place& place() const { return place_; }
  virtual std::string name() const = 0;                       // as written in refrain.json
  virtual Order order() const = 0;                            // its kind
  virtual int64_t code_bits() const { return config_.bits; }  // per weight
  virtual int64_t groups(int64_t in_features) const = 0;      // per row
  virtual Needs needs() const { return {}; }                  // what `fit` reads of the statistics
  // What it was made from besides config(), for refrain.json: of a replication strategy, {strategy: X, X: {…}}.
  virtual core::Node replication() const { return {}; }
  // Multiply-accumulates per token of a linear that decodes so.
  virtual int64_t macs(int64_t out_features, int64_t in_features) const { return out_features * in_features; }

  // w: [O, I] float32. Chooses the parameters for w; x tells about its inputs.
  virtual Parameters fit(const at::Tensor& w, const Statistics& x) const = 0;
  // The nearest codes under given parameters.
  virtual Encoded encode(const at::Tensor& w, Parameters parameters) const = 0;
  // codes: [O, I] uint8 -> [O, I] float32.
  virtual at::Tensor decode(const at::Tensor& codes, const Parameters& parameters) const = 0;
  // Whether what `decode` returns is the weight of a linear. Formats that treat tokens differently say no: it is then
  // the part that all tokens share.
  virtual bool is_weight() const { return true; }
  // Those only: what their linear computes of x [..., I], [..., O], with `multiply` by the shared part. Scales x and
  // the outputs.
  virtual at::Tensor product(const at::Tensor& x, const Multiply& multiply, const at::Tensor& bias,
                             const Parameters& parameters) const;
  // The parameters' names, shapes, kinds and stored bits for an [O, I] weight, tensors undefined: what a checkpoint
  // holds.
  virtual Parameters layout(int64_t out_features, int64_t in_features) const = 0;
  // The parameters with other scales, [O, G] like noise_scale, rounded as they are stored; codes then stand for levels
  // in proportion. None: weights are not proportional to such scales.
  virtual std::optional<Parameters> rescaled(const Parameters&, const at::Tensor& /*scale*/) const { return {}; }
  // None: there are no kernels for what this format does.
  virtual std::optional<PackedForm> packed_form(const Parameters&, int64_t, int64_t) const { return {}; }
  // What noise is measured in: [O, G].
  virtual at::Tensor noise_scale(const Parameters& parameters, int64_t out_features, int64_t in_features) const = 0;

 private:
  WeightConfig config_;
  Place place_;
};

class ElementFormat : public WeightFormat {
 public:
  using WeightFormat::WeightFormat;
  Order order() const final { return Order::elementwise; }
  // The levels of every weight, for kernels that choose one code at a time.
  virtual ElementGrid element_grid(const Parameters& parameters, int64_t out_features, int64_t in_features) const = 0;
  at::Tensor noise_scale(const Parameters& parameters, int64_t out_features, int64_t in_features) const override {
    return element_grid(parameters, out_features, in_features).scale;
  }
};

class SequenceFormat : public WeightFormat {
 public:
  using WeightFormat::WeightFormat;
  Order order() const final { return Order::sequence; }
  // Columns first … first + n of a weight [O, I], coded without regard to the others. w: [O, n]; first and n are
  // multiples of column_block().
  virtual EncodedColumns encode_columns(const at::Tensor& w, const Parameters& parameters, int64_t first,
                                        int64_t in_features) const = 0;
  // So many columns are coded together, in tiles of as many rows.
  virtual int64_t column_block() const { return 1; }
};

// The format as one of the kind that its order() says; TORCH_CHECKs that it is.
const ElementFormat& as_elements(const WeightFormat& format);
const SequenceFormat& as_sequence(const WeightFormat& format);

struct Refined {
  Encoded encoded;
  std::string note = {};  // for modules.csv
};

// What becomes of an encoded weight: the codes stay, other parameters decode them.
class Refinement {
 public:
  virtual ~Refinement() = default;
  virtual Needs needs() const { return {}; }
  virtual const std::shared_ptr<const WeightFormat>& format() const = 0;  // of what `refine` returns
  // w: [O, I] float32, the original weight; encoded: by the method, with the parameters of the format that it encoded
  // for.
  virtual Refined refine(const at::Tensor& w, Encoded encoded, const Statistics& x) const = 0;
};

// Bits that the parameters store.
int64_t parameter_bits(const Parameters& parameters);

}  // namespace quant
