//! x
use tch::{Device, Kind, Tensor};
#[test]
fn view() {
    for k in 0..6 {
        let mut x = Tensor::ones([1], (Kind::Double, Device::Cpu)).set_requires_grad(true);
        let v = x.reshape([1, -1]);
        let c = Tensor::from(2.0);
        if k & 1 == 0 {
            tch::no_grad(|| x.g_mul_(&c));
        } else {
            x = tch::no_grad(|| x.g_mul_(&Tensor::from(2.0)));
        }
        if k & 2 == 0 {
            println!("plain {:?} {:?}", v.is_leaf(), v.requires_grad());
        }
        let seed = Tensor::ones([1, 1], (Kind::Double, Device::Cpu));
        let l = if k & 4 == 0 {
            (&v * &seed).sum(Kind::Double)
        } else {
            Tensor::from(0.0) + (&v * &seed).sum(Kind::Double)
        };
        l.backward();
        println!("plain {k} {:?} {:?}", x.grad().defined(), x.grad());
    }
}
