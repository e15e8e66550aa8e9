// Reading a checkpoint's tensors into the compute dtype and device, one at a time, with every check a tensor deserves.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/io/tensor_source.h"
#include "core/state.h"

namespace core {

// A tensor of the file, ready for use.
struct LoadedTensor {
  at::Tensor tensor;   // compute dtype and device, contiguous, 64-byte aligned; lies over the file's pages if it can
  double stored_bits;  // per element in the file
};

// The open files of a model plus where and in which dtype to compute. Cheap to copy: the mapping is shared, and never
// written.
class Weights {
 public:
  Weights(std::shared_ptr<const TensorSource> source, at::ScalarType dtype, at::Device device);

  // Error (one line, naming tensor and file) when the tensor is missing, has another shape, a dtype that is not a
  // float, or a value that is not finite.
  LoadedTensor read(const std::string& name, at::IntArrayRef shape) const;
  bool has(const std::string& name) const { return source_->has(name) || added(name) != nullptr; }
  int64_t length_of(const std::string& name) const;  // of the first axis of a tensor that there is
  // Where its bytes lie in the file; of an expert perhaps inside of a tensor of all experts. Null: there is none, or it
  // is encoded there.
  std::optional<TensorView> view(const std::string& name) const;
  void check(const std::string& name, at::IntArrayRef shape) const;  // as `read`, without touching the data
  // Whether `read` would give exactly this tensor. Holds no second one.
  bool same(const std::string& name, const at::Tensor& tensor) const;

  // The same for models that are streamed: slots that say so (Slot::stays_in_file) are read whenever they are used.
  Weights streamed() const {
    Weights copy = *this;
    copy.is_streamed_ = true;
    return copy;
  }
  bool is_streamed() const { return is_streamed_; }

  // The same, and the names that are checked from now on are put into `names`, which lives longer.
  Weights noting(std::set<std::string>& names) const {
    Weights copy = *this;
    copy.noted_ = &names;
    return copy;
  }

  // The same, and these tensors, which no file has.
  using Added = std::map<std::string, at::Tensor>;
  Weights with(std::shared_ptr<const Added> tensors) const {
    Weights copy = *this;
    copy.added_ = std::move(tensors);
    return copy;
  }

  // The same tensors in another dtype, read with their blocks.
  Weights in(at::ScalarType dtype) const { return Weights(source_, dtype, device_).with(added_); }

  at::ScalarType dtype() const { return dtype_; }
  at::Device device() const { return device_; }
  const TensorSource& source() const { return *source_; }
  int64_t bytes_in_memory() const;  // of all tensors: floats in the compute dtype, codes as they are

 private:
  const at::Tensor* added(const std::string& name) const;  // null: it is none of those that were added

  std::shared_ptr<const TensorSource> source_;
  at::ScalarType dtype_;
  at::Device device_;
  std::shared_ptr<const Added> added_;  // null: none
  bool is_streamed_ = false;
  std::set<std::string>* noted_ = nullptr;
};

// A module that takes its tensors from a checkpoint. Loading and unloading is the unit of residency.
class Loadable {
 public:
  virtual ~Loadable() = default;
  virtual void check(const Weights& weights) const = 0;  // the tensors exist with the right shapes; reads no data
  virtual void load(const Weights& weights) = 0;
  virtual void unload() = 0;
  virtual std::vector<State> state() const = 0;  // with full Hugging Face names; empty while unloaded
  virtual Cost cost() const = 0;                 // of what is loaded now

  // From now on it uses what `original`, which has the same shape and lives longer, holds at that time, as long as it
  // holds nothing of its own; it then stores nothing, and loading it loads nothing.
  virtual void share(const Loadable& /*original*/) {}
};

}  // namespace core
