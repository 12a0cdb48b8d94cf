;; The matrix products of the network, with 128-bit vectors.
;;
;; Both functions multiply a matrix [rows, columns] in row-major order by a vector. Addresses are
;; bytes in the imported memory and multiples of 16; rows are a multiple of 4, columns of 16.
;; kernel.js has the same functions in JavaScript. Built by build_kernel.mjs.
(module
  (import "page" "memory" (memory 1))

  (func $sum_integers (param $lanes v128) (result i32)
    (i32.add
      (i32.add (i32x4.extract_lane 0 (local.get $lanes)) (i32x4.extract_lane 1 (local.get $lanes)))
      (i32.add (i32x4.extract_lane 2 (local.get $lanes)) (i32x4.extract_lane 3 (local.get $lanes)))))

  (func $sum_floats (param $lanes v128) (result f32)
    (f32.add
      (f32.add (f32x4.extract_lane 0 (local.get $lanes)) (f32x4.extract_lane 1 (local.get $lanes)))
      (f32.add (f32x4.extract_lane 2 (local.get $lanes)) (f32x4.extract_lane 3 (local.get $lanes)))))

  ;; Add to $sum the products of 16 weights and 16 inputs, in pairs.
  (func $multiply (param $sum v128) (param $weights v128) (param $low v128) (param $high v128)
    (result v128)
    (i32x4.add
      (local.get $sum)
      (i32x4.add
        (i32x4.dot_i16x8_s (i16x8.extend_low_i8x16_s (local.get $weights)) (local.get $low))
        (i32x4.dot_i16x8_s (i16x8.extend_high_i8x16_s (local.get $weights)) (local.get $high)))))

  ;; weights: int8; inputs: int16 [columns]; output: int32 [rows]
  (func (export "multiplyIntegers")
    (param $weights i32) (param $inputs i32) (param $rows i32) (param $columns i32)
    (param $output i32)
    (local $input i32) (local $end i32) (local $low v128) (local $high v128)
    (local $second i32) (local $third i32) (local $fourth i32)
    (local $a v128) (local $b v128) (local $c v128) (local $d v128)
    (local.set $end (i32.add (local.get $inputs) (i32.shl (local.get $columns) (i32.const 1))))
    (loop $four_rows
      (local.set $second (i32.add (local.get $weights) (local.get $columns)))
      (local.set $third (i32.add (local.get $second) (local.get $columns)))
      (local.set $fourth (i32.add (local.get $third) (local.get $columns)))
      (local.set $a (v128.const i32x4 0 0 0 0))
      (local.set $b (v128.const i32x4 0 0 0 0))
      (local.set $c (v128.const i32x4 0 0 0 0))
      (local.set $d (v128.const i32x4 0 0 0 0))
      (local.set $input (local.get $inputs))
      (loop $sixteen_columns
        (local.set $low (v128.load (local.get $input)))
        (local.set $high (v128.load offset=16 (local.get $input)))
        (local.set $a (call $multiply
          (local.get $a) (v128.load (local.get $weights)) (local.get $low) (local.get $high)))
        (local.set $b (call $multiply
          (local.get $b) (v128.load (local.get $second)) (local.get $low) (local.get $high)))
        (local.set $c (call $multiply
          (local.get $c) (v128.load (local.get $third)) (local.get $low) (local.get $high)))
        (local.set $d (call $multiply
          (local.get $d) (v128.load (local.get $fourth)) (local.get $low) (local.get $high)))
        (local.set $weights (i32.add (local.get $weights) (i32.const 16)))
        (local.set $second (i32.add (local.get $second) (i32.const 16)))
        (local.set $third (i32.add (local.get $third) (i32.const 16)))
        (local.set $fourth (i32.add (local.get $fourth) (i32.const 16)))
        (local.set $input (i32.add (local.get $input) (i32.const 32)))
        (br_if $sixteen_columns (i32.lt_u (local.get $input) (local.get $end))))
      (i32.store (local.get $output) (call $sum_integers (local.get $a)))
      (i32.store offset=4 (local.get $output) (call $sum_integers (local.get $b)))
      (i32.store offset=8 (local.get $output) (call $sum_integers (local.get $c)))
      (i32.store offset=12 (local.get $output) (call $sum_integers (local.get $d)))
      (local.set $output (i32.add (local.get $output) (i32.const 16)))
      (local.set $weights (local.get $fourth))
      (local.set $rows (i32.sub (local.get $rows) (i32.const 4)))
      (br_if $four_rows (local.get $rows))))

  ;; weights: float32; inputs: float32 [columns]; output: float32 [rows]
  (func (export "multiplyFloats")
    (param $weights i32) (param $inputs i32) (param $rows i32) (param $columns i32)
    (param $output i32)
    (local $input i32) (local $end i32) (local $bytes i32) (local $vector v128)
    (local $second i32) (local $third i32) (local $fourth i32)
    (local $a v128) (local $b v128) (local $c v128) (local $d v128)
    (local.set $bytes (i32.shl (local.get $columns) (i32.const 2)))
    (local.set $end (i32.add (local.get $inputs) (local.get $bytes)))
    (loop $four_rows
      (local.set $second (i32.add (local.get $weights) (local.get $bytes)))
      (local.set $third (i32.add (local.get $second) (local.get $bytes)))
      (local.set $fourth (i32.add (local.get $third) (local.get $bytes)))
      (local.set $a (v128.const f32x4 0 0 0 0))
      (local.set $b (v128.const f32x4 0 0 0 0))
      (local.set $c (v128.const f32x4 0 0 0 0))
      (local.set $d (v128.const f32x4 0 0 0 0))
      (local.set $input (local.get $inputs))
      (loop $four_columns
        (local.set $vector (v128.load (local.get $input)))
        (local.set $a (f32x4.add
          (local.get $a) (f32x4.mul (v128.load (local.get $weights)) (local.get $vector))))
        (local.set $b (f32x4.add
          (local.get $b) (f32x4.mul (v128.load (local.get $second)) (local.get $vector))))
        (local.set $c (f32x4.add
          (local.get $c) (f32x4.mul (v128.load (local.get $third)) (local.get $vector))))
        (local.set $d (f32x4.add
          (local.get $d) (f32x4.mul (v128.load (local.get $fourth)) (local.get $vector))))
        (local.set $weights (i32.add (local.get $weights) (i32.const 16)))
        (local.set $second (i32.add (local.get $second) (i32.const 16)))
        (local.set $third (i32.add (local.get $third) (i32.const 16)))
        (local.set $fourth (i32.add (local.get $fourth) (i32.const 16)))
        (local.set $input (i32.add (local.get $input) (i32.const 16)))
        (br_if $four_columns (i32.lt_u (local.get $input) (local.get $end))))
      (f32.store (local.get $output) (call $sum_floats (local.get $a)))
      (f32.store offset=4 (local.get $output) (call $sum_floats (local.get $b)))
      (f32.store offset=8 (local.get $output) (call $sum_floats (local.get $c)))
      (f32.store offset=12 (local.get $output) (call $sum_floats (local.get $d)))
      (local.set $output (i32.add (local.get $output) (i32.const 16)))
      (local.set $weights (local.get $fourth))
      (local.set $rows (i32.sub (local.get $rows) (i32.const 4)))
      (br_if $four_rows (local.get $rows)))))
