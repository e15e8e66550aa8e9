// A value of a class derived from Base, of which only Base is known where it is kept: sections of methods and
// strategies inside of other sections. Copying it copies the derived value, so that copies are independent, as
// core::Section promises; const reaches through. In the spirit of std::polymorphic of C++26.
#pragma once

#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>

namespace core {

template <class Base>
class Polymorphic {
 public:
  template <class Derived>
  requires std::derived_from<Derived, Base> Polymorphic(
      Derived value)  // NOLINT: a value of the derived class is one of the base
      : value_(std::make_unique<Derived>(std::move(value))), copy_(copy_of<Derived>) {}
  Polymorphic(const Polymorphic& other) : value_(other.copy_(*other.value_)), copy_(other.copy_) {}
  Polymorphic& operator=(const Polymorphic& other) {
    value_ = other.copy_(*other.value_);
    copy_ = other.copy_;
    return *this;
  }
  // What was moved from may only be assigned to or destroyed.
  Polymorphic(Polymorphic&&) noexcept = default;
  Polymorphic& operator=(Polymorphic&&) noexcept = default;
  ~Polymorphic() = default;

  Base& operator*() { return *value_; }
  const Base& operator*() const { return *value_; }
  Base* operator->() { return value_.get(); }
  const Base* operator->() const { return value_.get(); }

  // A copy that others may hold as long as they like.
  std::shared_ptr<const Base> share() const { return copy_(*value_); }

 private:
  template <class Derived>
  static std::unique_ptr<Base> copy_of(const Base& value) {
    return std::make_unique<Derived>(static_cast<const Derived&>(value));
  }

  std::unique_ptr<Base> value_;
  std::unique_ptr<Base> (*copy_)(const Base&);
};

}  // namespace core
