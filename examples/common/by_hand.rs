//! The textbook's backpropagation through one hidden layer of logistic units,
//! in plain loops: no tensor, no graph.
#![expect(clippy::needless_range_loop, reason = "i, j and k are the textbook's")]

/// Numbers in rows: of a batch, one row for each example.
pub type Matrix = Vec<Vec<f64>>;

/// w[i][j] leads from unit i below to unit j, whose bias is b[j].
pub struct Layer {
    pub w: Matrix,
    pub b: Vec<f64>,
}

/// The gradient of E = sum of (t - y)^2 / 2 over a batch, for one layer.
pub struct Slopes {
    /// dE/dnet of each example.
    pub deltas: Matrix,
    pub w: Matrix,
    pub b: Vec<f64>,
}

/// Returns, for the inputs `x` and the targets `t`, the slopes of the hidden layer and of
/// the output layer.
pub fn backpropagate(hidden: &Layer, output: &Layer, x: &Matrix, t: &Matrix) -> [Slopes; 2] {
    let mut hidden_slopes = Slopes::zeros(hidden);
    let mut output_slopes = Slopes::zeros(output);
    for (x, t) in x.iter().zip(t) {
        let hidden_y = activities(hidden, x);
        let y = activities(output, &hidden_y);
        let output_deltas = output_deltas(&y, t);
        let hidden_deltas = hidden_deltas(&hidden_y, output, &output_deltas);
        output_slopes.add(&hidden_y, output_deltas);
        hidden_slopes.add(x, hidden_deltas);
    }
    [hidden_slopes, output_slopes]
}

/// y_j = logistic(sum over i of x_i w_ij, plus b_j)
fn activities(layer: &Layer, x: &[f64]) -> Vec<f64> {
    let mut y = Vec::new();
    for j in 0..layer.b.len() {
        let mut net = layer.b[j];
        for i in 0..x.len() {
            net += x[i] * layer.w[i][j];
        }
        y.push(1.0 / (1.0 + (-net).exp()));
    }
    y
}

/// delta_k = (y_k - t_k) y_k (1 - y_k): the slope of E, times the logistic's.
fn output_deltas(y: &[f64], t: &[f64]) -> Vec<f64> {
    (0..y.len()).map(|k| (y[k] - t[k]) * y[k] * (1.0 - y[k])).collect()
}

/// delta_j = y_j (1 - y_j) sum over k of w_jk delta_k: what the units above
/// answer for, each by its weight.
fn hidden_deltas(y: &[f64], above: &Layer, deltas: &[f64]) -> Vec<f64> {
    let mut hidden = Vec::new();
    for j in 0..y.len() {
        let mut sum = 0.0;
        for k in 0..deltas.len() {
            sum += above.w[j][k] * deltas[k];
        }
        hidden.push(y[j] * (1.0 - y[j]) * sum);
    }
    hidden
}

impl Slopes {
    fn zeros(layer: &Layer) -> Slopes {
        let units = layer.b.len();
        let w = vec![vec![0.0; units]; layer.w.len()];
        Slopes { deltas: Vec::new(), w, b: vec![0.0; units] }
    }

    /// dE/dw_ij = delta_j x_i and dE/db_j = delta_j, of one example more.
    fn add(&mut self, x: &[f64], deltas: Vec<f64>) {
        for j in 0..deltas.len() {
            for i in 0..x.len() {
                self.w[i][j] += deltas[j] * x[i];
            }
            self.b[j] += deltas[j];
        }
        self.deltas.push(deltas);
    }
}
