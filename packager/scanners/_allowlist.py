# SPDX-License-Identifier: Apache-2.0
"""What a pickle may import: classes that hold the parts of models, and functions that only put data together.

Each name was looked at for what it does when a stranger calls it with arguments, or sets its state, of his choice: to
be here it must not import, evaluate, write or start anything. A name that is missing is not harmful, it is not known to
be harmless. Whole packages are never listed: `numpy.testing` runs text, and so does the `__setstate__` of a
distribution of `scipy.stats`.

A line is a module and its names as pickles spell them, older spellings of a library included; a line that begins with
spaces goes on.
"""

from __future__ import annotations

VERSION = 1  # 1: first list

_LISTS = {
    "Python": """
_codecs: encode
builtins: bool bytearray bytes complex dict float frozenset int list object range set slice str tuple
collections: ChainMap Counter OrderedDict UserDict defaultdict deque
copyreg: __newobj__ __newobj_ex__ _reconstructor
datetime: date datetime time timedelta timezone
decimal: Decimal
fractions: Fraction
functools: partial
pathlib: Path PosixPath PurePosixPath
re: _compile
types: SimpleNamespace
uuid: UUID
""",
    "numpy": """
numpy: abs absolute acos acosh add all amax amin any arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax
    argmin around asarray asin asinh atan atan2 atanh atleast_1d atleast_2d average bitwise_and bitwise_count
    bitwise_invert bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor bool bool8 bool_ byte
    bytes_ cbrt cdouble ceil character clip clongdouble column_stack complex128 complex256 complex64 complexfloating
    concatenate conj conjugate copysign cos cosh csingle cumprod cumsum datetime64 deg2rad degrees diff divide divmod
    dot double dtype equal exp exp2 expm1 fabs flexible float128 float16 float32 float64 float_ float_power floating
    floor floor_divide fmax fmin fmod frexp full_like gcd generic greater greater_equal half heaviside hstack hypot
    inexact int0 int16 int32 int64 int8 int_ intc integer intp invert isfinite isinf isnan isnat lcm ldexp left_shift
    less less_equal log log10 log1p log2 logaddexp logaddexp2 logical_and logical_not logical_or logical_xor long
    longdouble longlong matmul matrix matvec max maximum mean median min minimum mod modf multiply nan_to_num nanmax
    nanmean nanmedian nanmin nanstd nansum ndarray negative nextafter not_equal number object_ ones_like percentile
    positive pow power prod quantile rad2deg radians ravel recarray reciprocal record remainder reshape right_shift
    rint round short sign signbit signedinteger sin single sinh spacing sqrt square squeeze stack std str_ string_
    subtract sum tan tanh timedelta64 transpose true_divide trunc ubyte uint uint16 uint32 uint64 uint8 uintc uintp
    ulong ulonglong unicode_ unsignedinteger ushort var vecdot vecmat void vstack where zeros_like
numpy._core.multiarray: _reconstruct scalar
numpy._core.numeric: _frombuffer
numpy.core.multiarray: _reconstruct scalar
numpy.core.numeric: _frombuffer
numpy.ma: MaskedArray
numpy.ma.core: MaskedArray MaskedConstant _mareconstruct
numpy.random: __RandomState_ctor
numpy.random._generator: Generator
numpy.random._mt19937: MT19937
numpy.random._pcg64: PCG64 PCG64DXSM
numpy.random._philox: Philox
numpy.random._pickle: __bit_generator_ctor __generator_ctor __randomstate_ctor
numpy.random._sfc64: SFC64
numpy.random.bit_generator: SeedSequence __pyx_unpickle_SeedSequence
numpy.random.mtrand: RandomState
""",
    "scipy": """
scipy._external.array_api_compat.numpy._aliases: asarray
scipy._lib.array_api_compat.numpy._aliases: asarray
scipy.interpolate._bsplines: BSpline
scipy.interpolate._interpolate: PPoly interp1d
scipy.interpolate.interpolate: PPoly interp1d
scipy.sparse._bsr: bsr_array bsr_matrix
scipy.sparse._coo: coo_array coo_matrix
scipy.sparse._csc: csc_array csc_matrix
scipy.sparse._csr: csr_array csr_matrix
scipy.sparse._dia: dia_array dia_matrix
scipy.sparse._dok: dok_array dok_matrix
scipy.sparse._lil: lil_array lil_matrix
scipy.sparse._matrix: spmatrix
scipy.sparse.bsr: bsr_array bsr_matrix
scipy.sparse.coo: coo_array coo_matrix
scipy.sparse.csc: csc_array csc_matrix
scipy.sparse.csr: csr_array csr_matrix
scipy.sparse.dia: dia_array dia_matrix
scipy.sparse.dok: dok_array dok_matrix
scipy.sparse.lil: lil_array lil_matrix
scipy.special._ufuncs: agm airy airye bdtr bdtrc bdtri bdtrik bdtrin bei beip ber berp besselpoly beta betainc
    betaincc betainccinv betaincinv betaln binom boxcox boxcox1p btdtria btdtrib cbrt chdtr chdtrc chdtri chdtriv
    chndtr chndtridf chndtrinc chndtrix cosdg cosm1 cotdg dawsn digamma ellipe ellipeinc ellipj ellipk ellipkinc
    ellipkm1 elliprc elliprd elliprf elliprg elliprj entr erf erfc erfcinv erfcx erfi erfinv eval_chebyc eval_chebys
    eval_chebyt eval_chebyu eval_gegenbauer eval_genlaguerre eval_hermite eval_hermitenorm eval_jacobi eval_laguerre
    eval_legendre eval_sh_chebyt eval_sh_chebyu eval_sh_jacobi eval_sh_legendre exp1 exp10 exp2 expi expit expm1 expn
    exprel fdtr fdtrc fdtri fdtridfd fresnel gamma gammainc gammaincc gammainccinv gammaincinv gammaln gammasgn gdtr
    gdtrc gdtria gdtrib gdtrix hankel1 hankel1e hankel2 hankel2e huber hyp0f1 hyp1f1 hyp2f1 hyperu i0 i0e i1 i1e
    inv_boxcox inv_boxcox1p it2i0k0 it2j0y0 it2struve0 itairy iti0k0 itj0y0 itmodstruve0 itstruve0 iv ive j0 j1 jn jv
    jve k0 k0e k1 k1e kei keip kelvin ker kerp kl_div kn kolmogi kolmogorov kv kve log1p log_expit log_ndtr
    log_wright_bessel loggamma logit lpmv mathieu_a mathieu_b mathieu_cem mathieu_modcem1 mathieu_modcem2
    mathieu_modsem1 mathieu_modsem2 mathieu_sem modfresnelm modfresnelp modstruve nbdtr nbdtrc nbdtri nbdtrik nbdtrin
    ncfdtr ncfdtri ncfdtridfd ncfdtridfn ncfdtrinc nctdtr nctdtridf nctdtrinc nctdtrit ndtr ndtri ndtri_exp nrdtrimn
    nrdtrisd obl_ang1 obl_ang1_cv obl_cv obl_rad1 obl_rad1_cv obl_rad2 obl_rad2_cv owens_t pbdv pbvv pbwa pdtr pdtrc
    pdtri pdtrik poch powm1 pro_ang1 pro_ang1_cv pro_cv pro_rad1 pro_rad1_cv pro_rad2 pro_rad2_cv pseudo_huber psi
    radian rel_entr rgamma round shichi sici sindg smirnov smirnovi spence stdtr stdtridf stdtrit struve tandg tklmbda
    voigt_profile wofz wright_bessel wrightomega xlog1py xlogy y0 y1 yn yv yve zetac
""",
    "joblib": """
joblib.numpy_pickle: NumpyArrayWrapper
sklearn.externals.joblib.numpy_pickle: NumpyArrayWrapper
""",
    "scikit-learn, 0.19 to 1.9": """
_loss: CyAbsoluteError CyExponentialLoss CyHalfBinomialLoss CyHalfGammaLoss CyHalfMultinomialLoss CyHalfPoissonLoss
    CyHalfSquaredError CyHalfTweedieLoss CyHalfTweedieLossIdentity CyHuberLoss CyLossFunction CyPinballLoss
    __pyx_unpickle_CyAbsoluteError __pyx_unpickle_CyExponentialLoss __pyx_unpickle_CyHalfBinomialLoss
    __pyx_unpickle_CyHalfGammaLoss __pyx_unpickle_CyHalfMultinomialLoss __pyx_unpickle_CyHalfPoissonLoss
    __pyx_unpickle_CyHalfSquaredError __pyx_unpickle_CyHalfTweedieLoss __pyx_unpickle_CyHalfTweedieLossIdentity
    __pyx_unpickle_CyHuberLoss __pyx_unpickle_CyLossFunction __pyx_unpickle_CyPinballLoss
sklearn._loss._loss: CyAbsoluteError CyExponentialLoss CyHalfBinomialLoss CyHalfGammaLoss CyHalfMultinomialLoss
    CyHalfPoissonLoss CyHalfSquaredError CyHalfTweedieLoss CyHalfTweedieLossIdentity CyHuberLoss CyLossFunction
    CyPinballLoss __pyx_unpickle_CyAbsoluteError __pyx_unpickle_CyExponentialLoss __pyx_unpickle_CyHalfBinomialLoss
    __pyx_unpickle_CyHalfGammaLoss __pyx_unpickle_CyHalfMultinomialLoss __pyx_unpickle_CyHalfPoissonLoss
    __pyx_unpickle_CyHalfSquaredError __pyx_unpickle_CyHalfTweedieLoss __pyx_unpickle_CyHalfTweedieLossIdentity
    __pyx_unpickle_CyHuberLoss __pyx_unpickle_CyLossFunction __pyx_unpickle_CyPinballLoss
sklearn._loss.glm_distribution: GammaDistribution InverseGaussianDistribution NormalDistribution PoissonDistribution
    TweedieDistribution
sklearn._loss.link: HalfLogitLink IdentityLink Interval LogLink LogitLink MultinomialLogit
sklearn._loss.loss: AbsoluteError ExponentialLoss HalfBinomialLoss HalfGammaLoss HalfMultinomialLoss HalfPoissonLoss
    HalfSquaredError HalfTweedieLoss HalfTweedieLossIdentity HuberLoss PinballLoss
sklearn.base: BaseEstimator
sklearn.calibration: CalibratedClassifierCV _CalibratedClassifier _SigmoidCalibration _TemperatureScaling
sklearn.cluster._affinity_propagation: AffinityPropagation
sklearn.cluster._agglomerative: AgglomerativeClustering FeatureAgglomeration
sklearn.cluster._bicluster: BaseSpectral SpectralBiclustering SpectralCoclustering
sklearn.cluster._birch: Birch _CFNode _CFSubcluster
sklearn.cluster._bisect_k_means: BisectingKMeans _BisectingTree
sklearn.cluster._dbscan: DBSCAN
sklearn.cluster._hdbscan.hdbscan: HDBSCAN
sklearn.cluster._kmeans: KMeans MiniBatchKMeans _BaseKMeans _kmeans_single_elkan _kmeans_single_lloyd
sklearn.cluster._mean_shift: MeanShift
sklearn.cluster._optics: OPTICS
sklearn.cluster._spectral: SpectralClustering
sklearn.cluster.affinity_propagation_: AffinityPropagation
sklearn.cluster.bicluster: BaseSpectral SpectralBiclustering SpectralCoclustering
sklearn.cluster.birch: Birch _CFNode _CFSubcluster
sklearn.cluster.dbscan_: DBSCAN
sklearn.cluster.hierarchical: AgglomerativeClustering FeatureAgglomeration
sklearn.cluster.k_means_: KMeans MiniBatchKMeans
sklearn.cluster.mean_shift_: MeanShift
sklearn.cluster.spectral: SpectralClustering
sklearn.compose._column_transformer: ColumnTransformer _RemainderColsList make_column_selector
sklearn.compose._target: TransformedTargetRegressor
sklearn.covariance._elliptic_envelope: EllipticEnvelope
sklearn.covariance._empirical_covariance: EmpiricalCovariance
sklearn.covariance._graph_lasso: BaseGraphicalLasso GraphicalLasso GraphicalLassoCV
sklearn.covariance._robust_covariance: MinCovDet
sklearn.covariance._shrunk_covariance: LedoitWolf OAS ShrunkCovariance
sklearn.covariance.empirical_covariance_: EmpiricalCovariance
sklearn.covariance.graph_lasso_: GraphLasso GraphLassoCV
sklearn.covariance.outlier_detection: EllipticEnvelope
sklearn.covariance.robust_covariance: MinCovDet
sklearn.covariance.shrunk_covariance_: LedoitWolf OAS ShrunkCovariance
sklearn.cross_decomposition._cca: CCA
sklearn.cross_decomposition._pls: CCA PLSCanonical PLSRegression PLSSVD _PLS
sklearn.cross_decomposition.cca_: CCA
sklearn.cross_decomposition.pls_: PLSCanonical PLSRegression PLSSVD _PLS
sklearn.cross_validation: BaseShuffleSplit KFold LabelKFold LabelShuffleSplit LeaveOneLabelOut LeaveOneOut
    LeavePLabelOut LeavePOut PredefinedSplit ShuffleSplit StratifiedKFold StratifiedShuffleSplit _BaseKFold
    _PartitionIterator
sklearn.datasets.base: Bunch
sklearn.decomposition._base: _BasePCA
sklearn.decomposition._dict_learning: DictionaryLearning MiniBatchDictionaryLearning SparseCoder
sklearn.decomposition._factor_analysis: FactorAnalysis
sklearn.decomposition._fastica: FastICA
sklearn.decomposition._incremental_pca: IncrementalPCA
sklearn.decomposition._kernel_pca: KernelPCA
sklearn.decomposition._lda: LatentDirichletAllocation
sklearn.decomposition._nmf: MiniBatchNMF NMF _BaseNMF
sklearn.decomposition._pca: PCA
sklearn.decomposition._sparse_pca: MiniBatchSparsePCA SparsePCA _BaseSparsePCA
sklearn.decomposition._truncated_svd: TruncatedSVD
sklearn.decomposition.base: _BasePCA
sklearn.decomposition.dict_learning: DictionaryLearning MiniBatchDictionaryLearning SparseCoder
sklearn.decomposition.factor_analysis: FactorAnalysis
sklearn.decomposition.fastica_: FastICA
sklearn.decomposition.incremental_pca: IncrementalPCA
sklearn.decomposition.kernel_pca: KernelPCA
sklearn.decomposition.nmf: NMF
sklearn.decomposition.online_lda: LatentDirichletAllocation
sklearn.decomposition.pca: PCA RandomizedPCA
sklearn.decomposition.sparse_pca: MiniBatchSparsePCA SparsePCA
sklearn.decomposition.truncated_svd: TruncatedSVD
sklearn.discriminant_analysis: LinearDiscriminantAnalysis QuadraticDiscriminantAnalysis
sklearn.dummy: DummyClassifier DummyRegressor
sklearn.ensemble._bagging: BaggingClassifier BaggingRegressor BaseBagging
sklearn.ensemble._base: BaseEnsemble _BaseHeterogeneousEnsemble
sklearn.ensemble._forest: BaseForest ExtraTreesClassifier ExtraTreesRegressor ForestClassifier ForestRegressor
    RandomForestClassifier RandomForestRegressor RandomTreesEmbedding
sklearn.ensemble._gb: BaseGradientBoosting BinomialDeviance ExponentialLoss GradientBoostingClassifier
    GradientBoostingRegressor HuberLossFunction LeastAbsoluteError LeastSquaresError LogOddsEstimator MeanEstimator
    MultinomialDeviance PriorProbabilityEstimator QuantileEstimator QuantileLossFunction ScaledLogOddsEstimator
    VerboseReporter ZeroEstimator
sklearn.ensemble._gb_losses: BinomialDeviance ExponentialLoss HuberLossFunction LeastAbsoluteError LeastSquaresError
    MultinomialDeviance QuantileLossFunction
sklearn.ensemble._hist_gradient_boosting.binning: _BinMapper
sklearn.ensemble._hist_gradient_boosting.gradient_boosting: BaseHistGradientBoosting HistGradientBoostingClassifier
    HistGradientBoostingRegressor
sklearn.ensemble._hist_gradient_boosting.loss: BinaryCrossEntropy CategoricalCrossEntropy LeastAbsoluteDeviation
    LeastSquares Poisson
sklearn.ensemble._hist_gradient_boosting.predictor: TreePredictor
sklearn.ensemble._iforest: IsolationForest
sklearn.ensemble._stacking: StackingClassifier StackingRegressor _BaseStacking
sklearn.ensemble._voting: VotingClassifier VotingRegressor _BaseVoting
sklearn.ensemble._weight_boosting: AdaBoostClassifier AdaBoostRegressor BaseWeightBoosting
sklearn.ensemble.bagging: BaggingClassifier BaggingRegressor BaseBagging
sklearn.ensemble.base: BaseEnsemble
sklearn.ensemble.forest: BaseForest ExtraTreesClassifier ExtraTreesRegressor ForestClassifier ForestRegressor
    RandomForestClassifier RandomForestRegressor RandomTreesEmbedding
sklearn.ensemble.gradient_boosting: BaseGradientBoosting BinomialDeviance ClassificationLossFunction ExponentialLoss
    GradientBoostingClassifier GradientBoostingRegressor HuberLossFunction LeastAbsoluteError LeastSquaresError
    LogOddsEstimator LossFunction MeanEstimator MultinomialDeviance PriorProbabilityEstimator QuantileEstimator
    QuantileLossFunction RegressionLossFunction ScaledLogOddsEstimator VerboseReporter ZeroEstimator
sklearn.ensemble.iforest: IsolationForest
sklearn.ensemble.voting_classifier: VotingClassifier
sklearn.ensemble.weight_boosting: AdaBoostClassifier AdaBoostRegressor BaseWeightBoosting
sklearn.feature_extraction._dict_vectorizer: DictVectorizer
sklearn.feature_extraction._hash: FeatureHasher
sklearn.feature_extraction.dict_vectorizer: DictVectorizer
sklearn.feature_extraction.hashing: FeatureHasher
sklearn.feature_extraction.image: PatchExtractor
sklearn.feature_extraction.text: CountVectorizer HashingVectorizer TfidfTransformer TfidfVectorizer
sklearn.feature_selection._from_model: SelectFromModel
sklearn.feature_selection._mutual_info: mutual_info_classif mutual_info_regression
sklearn.feature_selection._rfe: RFE RFECV
sklearn.feature_selection._sequential: SequentialFeatureSelector
sklearn.feature_selection._univariate_selection: GenericUnivariateSelect SelectFdr SelectFpr SelectFwe SelectKBest
    SelectPercentile _BaseFilter chi2 f_classif f_oneway f_regression r_regression
sklearn.feature_selection._variance_threshold: VarianceThreshold
sklearn.feature_selection.base: SelectorMixin
sklearn.feature_selection.from_model: SelectFromModel
sklearn.feature_selection.mutual_info_: mutual_info_classif mutual_info_regression
sklearn.feature_selection.rfe: RFE RFECV
sklearn.feature_selection.univariate_selection: GenericUnivariateSelect SelectFdr SelectFpr SelectFwe SelectKBest
    SelectPercentile _BaseFilter chi2 f_classif f_oneway f_regression r_regression
sklearn.feature_selection.variance_threshold: VarianceThreshold
sklearn.frozen._frozen: FrozenEstimator
sklearn.gaussian_process._gpc: GaussianProcessClassifier _BinaryGaussianProcessClassifierLaplace
sklearn.gaussian_process._gpr: GaussianProcessRegressor
sklearn.gaussian_process.gaussian_process: GaussianProcess
sklearn.gaussian_process.gpc: GaussianProcessClassifier _BinaryGaussianProcessClassifierLaplace
sklearn.gaussian_process.gpr: GaussianProcessRegressor
sklearn.gaussian_process.kernels: CompoundKernel ConstantKernel DotProduct ExpSineSquared Exponentiation
    Hyperparameter Kernel KernelOperator Matern PairwiseKernel Product RBF RationalQuadratic Sum WhiteKernel
sklearn.grid_search: BaseSearchCV GridSearchCV RandomizedSearchCV _CVScoreTuple
sklearn.impute._base: MissingIndicator SimpleImputer _BaseImputer
sklearn.impute._iterative: IterativeImputer
sklearn.impute._knn: KNNImputer
sklearn.isotonic: IsotonicRegression
sklearn.kernel_approximation: AdditiveChi2Sampler Nystroem PolynomialCountSketch RBFSampler SkewedChi2Sampler
sklearn.kernel_ridge: KernelRidge
sklearn.linear_model._base: LinearModel LinearRegression MultiOutputLinearModel
sklearn.linear_model._bayes: ARDRegression BayesianRidge
sklearn.linear_model._coordinate_descent: ElasticNet ElasticNetCV Lasso LassoCV LinearModelCV MultiTaskElasticNet
    MultiTaskElasticNetCV MultiTaskLasso MultiTaskLassoCV
sklearn.linear_model._glm.glm: GammaRegressor GeneralizedLinearRegressor PoissonRegressor TweedieRegressor
    _GeneralizedLinearRegressor
sklearn.linear_model._glm.link: IdentityLink LogLink LogitLink
sklearn.linear_model._huber: HuberRegressor
sklearn.linear_model._least_angle: Lars LarsCV LassoLars LassoLarsCV LassoLarsIC
sklearn.linear_model._linear_loss: LinearModelLoss
sklearn.linear_model._logistic: LogisticRegression LogisticRegressionCV
sklearn.linear_model._omp: OrthogonalMatchingPursuit OrthogonalMatchingPursuitCV
sklearn.linear_model._passive_aggressive: PassiveAggressiveClassifier PassiveAggressiveRegressor
sklearn.linear_model._perceptron: Perceptron
sklearn.linear_model._quantile: QuantileRegressor
sklearn.linear_model._ransac: RANSACRegressor
sklearn.linear_model._ridge: Ridge RidgeCV RidgeClassifier RidgeClassifierCV _BaseRidge _BaseRidgeCV
    _IdentityClassifier _IdentityRegressor _RidgeGCV
sklearn.linear_model._sgd_fast: Classification EpsilonInsensitive Hinge Huber Log LossFunction ModifiedHuber
    Regression SquaredEpsilonInsensitive SquaredHinge SquaredLoss
sklearn.linear_model._stochastic_gradient: BaseSGD BaseSGDClassifier BaseSGDRegressor SGDClassifier SGDOneClassSVM
    SGDRegressor
sklearn.linear_model._theil_sen: TheilSenRegressor
sklearn.linear_model.base: LinearModel LinearRegression
sklearn.linear_model.bayes: ARDRegression BayesianRidge
sklearn.linear_model.coordinate_descent: ElasticNet ElasticNetCV Lasso LassoCV LinearModelCV MultiTaskElasticNet
    MultiTaskElasticNetCV MultiTaskLasso MultiTaskLassoCV
sklearn.linear_model.huber: HuberRegressor
sklearn.linear_model.least_angle: Lars LarsCV LassoLars LassoLarsCV LassoLarsIC
sklearn.linear_model.logistic: LogisticRegression LogisticRegressionCV
sklearn.linear_model.omp: OrthogonalMatchingPursuit OrthogonalMatchingPursuitCV
sklearn.linear_model.passive_aggressive: PassiveAggressiveClassifier PassiveAggressiveRegressor
sklearn.linear_model.perceptron: Perceptron
sklearn.linear_model.randomized_l1: BaseRandomizedLinearModel RandomizedLasso RandomizedLogisticRegression
sklearn.linear_model.ransac: RANSACRegressor
sklearn.linear_model.ridge: Ridge RidgeCV RidgeClassifier RidgeClassifierCV _BaseRidge _BaseRidgeCV _RidgeGCV
sklearn.linear_model.sgd_fast: Classification EpsilonInsensitive Hinge Huber Log LossFunction ModifiedHuber Regression
    SquaredEpsilonInsensitive SquaredHinge SquaredLoss
sklearn.linear_model.stochastic_gradient: BaseSGD BaseSGDClassifier BaseSGDRegressor SGDClassifier SGDRegressor
sklearn.linear_model.theil_sen: TheilSenRegressor
sklearn.manifold._classical_mds: ClassicalMDS
sklearn.manifold._isomap: Isomap
sklearn.manifold._locally_linear: LocallyLinearEmbedding
sklearn.manifold._mds: MDS
sklearn.manifold._spectral_embedding: SpectralEmbedding
sklearn.manifold._t_sne: TSNE
sklearn.manifold.isomap: Isomap
sklearn.manifold.locally_linear: LocallyLinearEmbedding
sklearn.manifold.mds: MDS
sklearn.manifold.spectral_embedding_: SpectralEmbedding
sklearn.manifold.t_sne: TSNE
sklearn.metrics._classification: accuracy_score balanced_accuracy_score brier_score_loss class_likelihood_ratios
    classification_report cohen_kappa_score confusion_matrix d2_brier_score d2_log_loss_score f1_score fbeta_score
    hamming_loss hinge_loss jaccard_score log_loss matthews_corrcoef multilabel_confusion_matrix
    precision_recall_fscore_support precision_score recall_score zero_one_loss
sklearn.metrics._dist_metrics: BrayCurtisDistance BrayCurtisDistance32 BrayCurtisDistance64 CanberraDistance
    CanberraDistance32 CanberraDistance64 ChebyshevDistance ChebyshevDistance32 ChebyshevDistance64 DiceDistance
    DiceDistance32 DiceDistance64 DistanceMetric EuclideanDistance EuclideanDistance32 EuclideanDistance64
    HammingDistance HammingDistance32 HammingDistance64 HaversineDistance HaversineDistance32 HaversineDistance64
    JaccardDistance JaccardDistance32 JaccardDistance64 KulsinskiDistance KulsinskiDistance32 KulsinskiDistance64
    MahalanobisDistance MahalanobisDistance32 MahalanobisDistance64 ManhattanDistance ManhattanDistance32
    ManhattanDistance64 MatchingDistance MatchingDistance32 MatchingDistance64 MinkowskiDistance MinkowskiDistance32
    MinkowskiDistance64 RogersTanimotoDistance RogersTanimotoDistance32 RogersTanimotoDistance64 RussellRaoDistance
    RussellRaoDistance32 RussellRaoDistance64 SEuclideanDistance SEuclideanDistance32 SEuclideanDistance64
    SokalMichenerDistance SokalMichenerDistance32 SokalMichenerDistance64 SokalSneathDistance SokalSneathDistance32
    SokalSneathDistance64 WMinkowskiDistance WMinkowskiDistance32 WMinkowskiDistance64 newObj
sklearn.metrics._ranking: auc average_precision_score confusion_matrix_at_thresholds coverage_error dcg_score
    det_curve label_ranking_average_precision_score label_ranking_loss metric_at_thresholds ndcg_score
    precision_recall_curve roc_auc_score roc_curve top_k_accuracy_score
sklearn.metrics._regression: d2_absolute_error_score d2_pinball_score d2_tweedie_score explained_variance_score
    max_error mean_absolute_error mean_absolute_percentage_error mean_gamma_deviance mean_pinball_loss
    mean_poisson_deviance mean_squared_error mean_squared_log_error mean_tweedie_deviance median_absolute_error
    r2_score root_mean_squared_error root_mean_squared_log_error
sklearn.metrics._scorer: _CurveScorer _MultimetricScorer _PassthroughScorer _PredictScorer _ProbaScorer _Scorer
    _ThresholdScorer _passthrough_scorer
sklearn.metrics.classification: accuracy_score balanced_accuracy_score brier_score_loss class_likelihood_ratios
    classification_report cohen_kappa_score confusion_matrix d2_brier_score d2_log_loss_score f1_score fbeta_score
    hamming_loss hinge_loss jaccard_score log_loss matthews_corrcoef multilabel_confusion_matrix
    precision_recall_fscore_support precision_score recall_score zero_one_loss
sklearn.metrics.cluster._supervised: adjusted_mutual_info_score adjusted_rand_score check_clusterings
    completeness_score contingency_matrix entropy fowlkes_mallows_score homogeneity_completeness_v_measure
    homogeneity_score mutual_info_score normalized_mutual_info_score pair_confusion_matrix rand_score v_measure_score
sklearn.metrics.pairwise: additive_chi2_kernel chi2_kernel cosine_distances cosine_similarity euclidean_distances
    haversine_distances laplacian_kernel linear_kernel manhattan_distances nan_euclidean_distances
    paired_cosine_distances paired_distances paired_euclidean_distances paired_manhattan_distances pairwise_distances
    polynomial_kernel rbf_kernel sigmoid_kernel
sklearn.metrics.ranking: auc average_precision_score confusion_matrix_at_thresholds coverage_error dcg_score det_curve
    label_ranking_average_precision_score label_ranking_loss metric_at_thresholds ndcg_score precision_recall_curve
    roc_auc_score roc_curve top_k_accuracy_score
sklearn.metrics.regression: d2_absolute_error_score d2_pinball_score d2_tweedie_score explained_variance_score
    max_error mean_absolute_error mean_absolute_percentage_error mean_gamma_deviance mean_pinball_loss
    mean_poisson_deviance mean_squared_error mean_squared_log_error mean_tweedie_deviance median_absolute_error
    r2_score root_mean_squared_error root_mean_squared_log_error
sklearn.metrics.scorer: _BaseScorer _CurveScorer _MultimetricScorer _PassthroughScorer _PredictScorer _ProbaScorer
    _Scorer _ThresholdScorer _passthrough_scorer
sklearn.mixture._base: BaseMixture
sklearn.mixture._bayesian_mixture: BayesianGaussianMixture
sklearn.mixture._gaussian_mixture: GaussianMixture
sklearn.mixture.base: BaseMixture
sklearn.mixture.bayesian_mixture: BayesianGaussianMixture
sklearn.mixture.dpgmm: DPGMM VBGMM _DPGMMBase
sklearn.mixture.gaussian_mixture: GaussianMixture
sklearn.mixture.gmm: GMM _GMMBase
sklearn.model_selection._classification_threshold: BaseThresholdClassifier FixedThresholdClassifier
    TunedThresholdClassifierCV _CurveScorer
sklearn.model_selection._search: BaseSearchCV GridSearchCV RandomizedSearchCV _CVScoreTuple
sklearn.model_selection._search_successive_halving: BaseSuccessiveHalving HalvingGridSearchCV HalvingRandomSearchCV
sklearn.model_selection._split: BaseCrossValidator BaseShuffleSplit GroupKFold GroupShuffleSplit KFold
    LeaveOneGroupOut LeaveOneOut LeavePGroupsOut LeavePOut PredefinedSplit RepeatedKFold RepeatedStratifiedKFold
    ShuffleSplit StratifiedGroupKFold StratifiedKFold StratifiedShuffleSplit TimeSeriesSplit _BaseKFold
    _CVIterableWrapper _RepeatedSplits
sklearn.multiclass: OneVsOneClassifier OneVsRestClassifier OutputCodeClassifier _ConstantPredictor
sklearn.multioutput: ClassifierChain MultiOutputClassifier MultiOutputEstimator MultiOutputRegressor RegressorChain
    _BaseChain _MultiOutputEstimator
sklearn.naive_bayes: BaseDiscreteNB BaseNB BernoulliNB CategoricalNB ComplementNB GaussianNB MultinomialNB
    _BaseDiscreteNB _BaseNB
sklearn.neighbors._ball_tree: BallTree BallTree32 BallTree64 newObj
sklearn.neighbors._base: NeighborsBase
sklearn.neighbors._classification: KNeighborsClassifier RadiusNeighborsClassifier
sklearn.neighbors._dist_metrics: BrayCurtisDistance BrayCurtisDistance32 BrayCurtisDistance64 CanberraDistance
    CanberraDistance32 CanberraDistance64 ChebyshevDistance ChebyshevDistance32 ChebyshevDistance64 DiceDistance
    DiceDistance32 DiceDistance64 DistanceMetric EuclideanDistance EuclideanDistance32 EuclideanDistance64
    HammingDistance HammingDistance32 HammingDistance64 HaversineDistance HaversineDistance32 HaversineDistance64
    JaccardDistance JaccardDistance32 JaccardDistance64 KulsinskiDistance KulsinskiDistance32 KulsinskiDistance64
    MahalanobisDistance MahalanobisDistance32 MahalanobisDistance64 ManhattanDistance ManhattanDistance32
    ManhattanDistance64 MatchingDistance MatchingDistance32 MatchingDistance64 MinkowskiDistance MinkowskiDistance32
    MinkowskiDistance64 RogersTanimotoDistance RogersTanimotoDistance32 RogersTanimotoDistance64 RussellRaoDistance
    RussellRaoDistance32 RussellRaoDistance64 SEuclideanDistance SEuclideanDistance32 SEuclideanDistance64
    SokalMichenerDistance SokalMichenerDistance32 SokalMichenerDistance64 SokalSneathDistance SokalSneathDistance32
    SokalSneathDistance64 WMinkowskiDistance WMinkowskiDistance32 WMinkowskiDistance64 newObj
sklearn.neighbors._distance_metric: DistanceMetric
sklearn.neighbors._graph: KNeighborsTransformer RadiusNeighborsTransformer
sklearn.neighbors._kd_tree: KDTree KDTree32 KDTree64 newObj
sklearn.neighbors._kde: KernelDensity
sklearn.neighbors._lof: LocalOutlierFactor
sklearn.neighbors._nca: NeighborhoodComponentsAnalysis
sklearn.neighbors._nearest_centroid: NearestCentroid
sklearn.neighbors._regression: KNeighborsRegressor RadiusNeighborsRegressor
sklearn.neighbors._unsupervised: NearestNeighbors
sklearn.neighbors.approximate: GaussianRandomProjectionHash LSHForest
sklearn.neighbors.ball_tree: BallTree newObj
sklearn.neighbors.base: NeighborsBase
sklearn.neighbors.classification: KNeighborsClassifier RadiusNeighborsClassifier
sklearn.neighbors.dist_metrics: BrayCurtisDistance BrayCurtisDistance32 BrayCurtisDistance64 CanberraDistance
    CanberraDistance32 CanberraDistance64 ChebyshevDistance ChebyshevDistance32 ChebyshevDistance64 DiceDistance
    DiceDistance32 DiceDistance64 DistanceMetric EuclideanDistance EuclideanDistance32 EuclideanDistance64
    HammingDistance HammingDistance32 HammingDistance64 HaversineDistance HaversineDistance32 HaversineDistance64
    JaccardDistance JaccardDistance32 JaccardDistance64 KulsinskiDistance KulsinskiDistance32 KulsinskiDistance64
    MahalanobisDistance MahalanobisDistance32 MahalanobisDistance64 ManhattanDistance ManhattanDistance32
    ManhattanDistance64 MatchingDistance MatchingDistance32 MatchingDistance64 MinkowskiDistance MinkowskiDistance32
    MinkowskiDistance64 RogersTanimotoDistance RogersTanimotoDistance32 RogersTanimotoDistance64 RussellRaoDistance
    RussellRaoDistance32 RussellRaoDistance64 SEuclideanDistance SEuclideanDistance32 SEuclideanDistance64
    SokalMichenerDistance SokalMichenerDistance32 SokalMichenerDistance64 SokalSneathDistance SokalSneathDistance32
    SokalSneathDistance64 WMinkowskiDistance WMinkowskiDistance32 WMinkowskiDistance64 newObj
sklearn.neighbors.kd_tree: KDTree newObj
sklearn.neighbors.kde: KernelDensity
sklearn.neighbors.lof: LocalOutlierFactor
sklearn.neighbors.nearest_centroid: NearestCentroid
sklearn.neighbors.regression: KNeighborsRegressor RadiusNeighborsRegressor
sklearn.neighbors.unsupervised: NearestNeighbors
sklearn.neural_network._multilayer_perceptron: BaseMultilayerPerceptron MLPClassifier MLPRegressor
sklearn.neural_network._rbm: BernoulliRBM
sklearn.neural_network._stochastic_optimizers: AdamOptimizer SGDOptimizer
sklearn.neural_network.multilayer_perceptron: BaseMultilayerPerceptron MLPClassifier MLPRegressor
sklearn.neural_network.rbm: BernoulliRBM
sklearn.pipeline: FeatureUnion Pipeline
sklearn.preprocessing._data: Binarizer KernelCenterer MaxAbsScaler MinMaxScaler Normalizer PolynomialFeatures
    PowerTransformer QuantileTransformer RobustScaler StandardScaler
sklearn.preprocessing._discretization: KBinsDiscretizer
sklearn.preprocessing._encoders: OneHotEncoder OrdinalEncoder _BaseEncoder
sklearn.preprocessing._function_transformer: FunctionTransformer
sklearn.preprocessing._label: LabelBinarizer LabelEncoder MultiLabelBinarizer
sklearn.preprocessing._polynomial: PolynomialFeatures SplineTransformer
sklearn.preprocessing._target_encoder: TargetEncoder
sklearn.preprocessing.data: Binarizer KernelCenterer MaxAbsScaler MinMaxScaler Normalizer OneHotEncoder
    PolynomialFeatures QuantileTransformer RobustScaler StandardScaler
sklearn.preprocessing.imputation: Imputer
sklearn.preprocessing.label: LabelBinarizer LabelEncoder MultiLabelBinarizer
sklearn.random_projection: BaseRandomProjection GaussianRandomProjection SparseRandomProjection
sklearn.semi_supervised._label_propagation: BaseLabelPropagation LabelPropagation LabelSpreading
sklearn.semi_supervised._self_training: SelfTrainingClassifier
sklearn.semi_supervised.label_propagation: BaseLabelPropagation LabelPropagation LabelSpreading
sklearn.svm._base: BaseLibSVM BaseSVC
sklearn.svm._classes: LinearSVC LinearSVR NuSVC NuSVR OneClassSVM SVC SVR
sklearn.svm.base: BaseLibSVM BaseSVC
sklearn.svm.classes: LinearSVC LinearSVR NuSVC NuSVR OneClassSVM SVC SVR
sklearn.tree._classes: BaseDecisionTree DecisionTreeClassifier DecisionTreeRegressor ExtraTreeClassifier
    ExtraTreeRegressor
sklearn.tree._tree: Tree
sklearn.tree.tree: BaseDecisionTree DecisionTreeClassifier DecisionTreeRegressor ExtraTreeClassifier
    ExtraTreeRegressor
sklearn.utils: Bunch
sklearn.utils._array_api: _NumPyAPIWrapper _NumPyApiWrapper
sklearn.utils._bunch: Bunch
sklearn.utils._encode: MissingValues _NaNCounter _nandict
sklearn.utils._metadata_requests: MetadataRequest MethodMetadataRequest
sklearn.utils.deprecation: DeprecationDict
sklearn.utils.metaestimators: _BaseComposition
sklearn.utils.validation: check_array column_or_1d
""",
    "pandas": """
pandas: BooleanDtype Categorical CategoricalDtype CategoricalIndex DataFrame DatetimeIndex DatetimeTZDtype
    Float32Dtype Float64Dtype Index Int16Dtype Int32Dtype Int64Dtype Int8Dtype MultiIndex NA RangeIndex Series
    StringDtype UInt16Dtype UInt32Dtype UInt64Dtype UInt8Dtype
pandas._libs.arrays: __pyx_unpickle_NDArrayBacked
pandas._libs.internals: BlockPlacement _unpickle_block
pandas._libs.missing: NAType _C_NA
pandas._libs.tslibs.timestamps: _unpickle_timestamp
pandas.arrays: ArrowStringArray BooleanArray DatetimeArray FloatingArray IntegerArray NumpyExtensionArray StringArray
    TimedeltaArray
pandas.core.arrays.boolean: BooleanArray BooleanDtype
pandas.core.arrays.categorical: Categorical
pandas.core.arrays.datetimes: DatetimeArray
pandas.core.arrays.floating: Float32Dtype Float64Dtype FloatingArray
pandas.core.arrays.integer: Int16Dtype Int32Dtype Int64Dtype Int8Dtype IntegerArray UInt16Dtype UInt32Dtype
    UInt64Dtype UInt8Dtype
pandas.core.arrays.masked: BaseMaskedArray
pandas.core.arrays.numpy_: NumpyExtensionArray
pandas.core.arrays.string_: StringArray StringDtype
pandas.core.arrays.timedeltas: TimedeltaArray
pandas.core.dtypes.dtypes: CategoricalDtype DatetimeTZDtype
pandas.core.frame: DataFrame
pandas.core.indexes.base: Index _new_Index
pandas.core.indexes.category: CategoricalIndex
pandas.core.indexes.datetimes: DatetimeIndex _new_DatetimeIndex
pandas.core.indexes.frozen: FrozenList
pandas.core.indexes.multi: MultiIndex
pandas.core.indexes.numeric: Float64Index Int64Index UInt64Index
pandas.core.indexes.range: RangeIndex
pandas.core.internals.blocks: new_block
pandas.core.internals.managers: BlockManager SingleBlockManager
pandas.core.series: Series
pyarrow.lib: _restore_array py_buffer type_for_alias
""",
    "LightGBM": """
lightgbm.basic: Booster
lightgbm.compat: LGBMLabelEncoder _LGBMLabelEncoder
lightgbm.sklearn: LGBMClassifier LGBMModel LGBMRanker LGBMRegressor _LGBMLabelEncoder
""",
    "XGBoost": """
xgboost.callback: EarlyStopping EvaluationMonitor LearningRateScheduler
xgboost.compat: XGBoostLabelEncoder
xgboost.core: Booster
xgboost.sklearn: XGBClassifier XGBModel XGBRFClassifier XGBRFRegressor XGBRanker XGBRegressor
""",
    "CatBoost": """
catboost.core: CatBoost CatBoostClassifier CatBoostRanker CatBoostRegressor
""",
    "imbalanced-learn": """
imblearn.base: BaseSampler FunctionSampler SamplerMixin
imblearn.combine._smote_enn: SMOTEENN
imblearn.combine._smote_tomek: SMOTETomek
imblearn.ensemble._bagging: BalancedBaggingClassifier
imblearn.ensemble._easy_ensemble: EasyEnsembleClassifier
imblearn.ensemble._forest: BalancedRandomForestClassifier
imblearn.ensemble._weight_boosting: RUSBoostClassifier
imblearn.over_sampling._adasyn: ADASYN
imblearn.over_sampling._random_over_sampler: RandomOverSampler
imblearn.over_sampling._smote.base: BaseSMOTE SMOTE SMOTEN SMOTENC
imblearn.over_sampling._smote.cluster: KMeansSMOTE
imblearn.over_sampling._smote.filter: BorderlineSMOTE SVMSMOTE
imblearn.over_sampling.base: BaseOverSampler
imblearn.pipeline: Pipeline
imblearn.under_sampling._prototype_generation._cluster_centroids: ClusterCentroids
imblearn.under_sampling._prototype_selection._condensed_nearest_neighbour: CondensedNearestNeighbour
imblearn.under_sampling._prototype_selection._edited_nearest_neighbours: AllKNN EditedNearestNeighbours
    RepeatedEditedNearestNeighbours
imblearn.under_sampling._prototype_selection._instance_hardness_threshold: InstanceHardnessThreshold
imblearn.under_sampling._prototype_selection._nearmiss: NearMiss
imblearn.under_sampling._prototype_selection._neighbourhood_cleaning_rule: NeighbourhoodCleaningRule
imblearn.under_sampling._prototype_selection._one_sided_selection: OneSidedSelection
imblearn.under_sampling._prototype_selection._random_under_sampler: RandomUnderSampler
imblearn.under_sampling._prototype_selection._tomek_links: TomekLinks
imblearn.under_sampling.base: BaseCleaningSampler BaseUnderSampler
""",
    "category-encoders": """
category_encoders._contrasts: ContrastMatrix
category_encoders.backward_difference: BackwardDifferenceEncoder
category_encoders.base_contrast_encoder: BaseContrastEncoder
category_encoders.basen: BaseNEncoder
category_encoders.binary: BinaryEncoder
category_encoders.cat_boost: CatBoostEncoder
category_encoders.count: CountEncoder
category_encoders.count_target: CountTargetEncoder
category_encoders.glmm: GLMMEncoder
category_encoders.gray: GrayEncoder
category_encoders.hashing: HashingEncoder
category_encoders.helmert: HelmertEncoder
category_encoders.james_stein: JamesSteinEncoder
category_encoders.leave_one_out: LeaveOneOutEncoder
category_encoders.m_estimate: MEstimateEncoder
category_encoders.multi_hot: MultiHotEncoder
category_encoders.one_hot: OneHotEncoder
category_encoders.ordinal: OrdinalEncoder
category_encoders.polynomial: PolynomialEncoder
category_encoders.quantile_encoder: QuantileEncoder SummaryEncoder
category_encoders.rankhot: RankHotEncoder
category_encoders.sum_coding: SumEncoder
category_encoders.target_encoder: TargetEncoder
category_encoders.woe: WOEEncoder
category_encoders.wrapper: NestedCVWrapper PolynomialWrapper
""",
    "torch": """
torch: BFloat16Storage BoolStorage ByteStorage CharStorage ComplexDoubleStorage ComplexFloatStorage DoubleStorage
    FloatStorage HalfStorage IntStorage LongStorage QInt32Storage QInt8Storage QUInt8Storage ShortStorage Size
    bfloat16 bit bits16 bits1x8 bits2x4 bits4x2 bits8 bool cdouble cfloat chalf complex128 complex32 complex64 device
    double float float16 float32 float4_e2m1fn_x2 float64 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz
    float8_e8m0fnu half int int1 int16 int2 int3 int32 int4 int5 int6 int64 int7 int8 long qint32 qint8 quint2x4
    quint4x2 quint8 short uint1 uint16 uint2 uint3 uint32 uint4 uint5 uint6 uint64 uint7 uint8
torch._C._nn: gelu mish silu
torch._tensor: _rebuild_from_type_v2
torch._utils: _rebuild_parameter _rebuild_parameter_with_state _rebuild_qtensor _rebuild_sparse_tensor _rebuild_tensor
    _rebuild_tensor_v2 _rebuild_tensor_v3
torch.jit._pickle: build_boollist build_doublelist build_intlist build_tensor_from_id build_tensorlist
    restore_type_tag
torch.nn.functional: celu elu gelu glu hardsigmoid hardswish hardtanh leaky_relu log_softmax logsigmoid mish relu
    relu6 selu sigmoid silu softmax softplus softsign tanh
torch.nn.modules._functions: BackwardHookFunction CrossMapLRN2d SyncBatchNorm
torch.nn.modules.activation: CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid
    LogSoftmax Mish MultiheadAttention PReLU RReLU ReLU ReLU6 SELU SiLU Sigmoid Softmax Softmax2d Softmin Softplus
    Softshrink Softsign Tanh Tanhshrink Threshold
torch.nn.modules.adaptive: AdaptiveLogSoftmaxWithLoss
torch.nn.modules.batchnorm: BatchNorm1d BatchNorm2d BatchNorm3d LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d
    SyncBatchNorm _BatchNorm _LazyNormBase _NormBase
torch.nn.modules.channelshuffle: ChannelShuffle
torch.nn.modules.container: Container ModuleDict ModuleList ParameterDict ParameterList Sequential
torch.nn.modules.conv: Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d LazyConv1d LazyConv2d
    LazyConv3d LazyConvTranspose1d LazyConvTranspose2d LazyConvTranspose3d _ConvNd _ConvTransposeMixin
    _ConvTransposeNd _LazyConvXdMixin
torch.nn.modules.distance: CosineSimilarity PairwiseDistance
torch.nn.modules.dropout: AlphaDropout Dropout Dropout1d Dropout2d Dropout3d FeatureAlphaDropout _DropoutNd
torch.nn.modules.flatten: Flatten Unflatten
torch.nn.modules.fold: Fold Unfold
torch.nn.modules.instancenorm: InstanceNorm1d InstanceNorm2d InstanceNorm3d LazyInstanceNorm1d LazyInstanceNorm2d
    LazyInstanceNorm3d _InstanceNorm
torch.nn.modules.lazy: _LazyProtocol
torch.nn.modules.linear: Bilinear Identity LazyLinear Linear NonDynamicallyQuantizableLinear
torch.nn.modules.linear_cross_entropy_options: _AutoDefault
torch.nn.modules.loss: BCELoss BCEWithLogitsLoss CTCLoss CosineEmbeddingLoss CrossEntropyLoss GaussianNLLLoss
    HingeEmbeddingLoss HuberLoss KLDivLoss L1Loss LinearCrossEntropyLoss MSELoss MarginRankingLoss
    MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss NLLLoss NLLLoss2d PoissonNLLLoss SmoothL1Loss
    SoftMarginLoss TripletMarginLoss TripletMarginWithDistanceLoss _Loss _WeightedLoss
torch.nn.modules.normalization: CrossMapLRN2d GroupNorm LayerNorm LocalResponseNorm RMSNorm
torch.nn.modules.padding: CircularPad1d CircularPad2d CircularPad3d ConstantPad1d ConstantPad2d ConstantPad3d
    ReflectionPad1d ReflectionPad2d ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d ZeroPad1d
    ZeroPad2d ZeroPad3d _CircularPadNd _ConstantPadNd _ReflectionPadNd _ReplicationPadNd
torch.nn.modules.pixelshuffle: PixelShuffle PixelUnshuffle
torch.nn.modules.pooling: AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d
    AdaptiveMaxPool3d AvgPool1d AvgPool2d AvgPool3d FractionalMaxPool2d FractionalMaxPool3d LPPool1d LPPool2d LPPool3d
    MaxPool1d MaxPool2d MaxPool3d MaxUnpool1d MaxUnpool2d MaxUnpool3d _AdaptiveAvgPoolNd _AdaptiveMaxPoolNd _AvgPoolNd
    _LPPoolNd _MaxPoolNd _MaxUnpoolNd
torch.nn.modules.rnn: GRU GRUCell LSTM LSTMCell RNN RNNBase RNNCell RNNCellBase
torch.nn.modules.sparse: Embedding EmbeddingBag
torch.nn.modules.transformer: Transformer TransformerDecoder TransformerDecoderLayer TransformerEncoder
    TransformerEncoderLayer
torch.nn.modules.upsampling: Upsample UpsamplingBilinear2d UpsamplingNearest2d
torch.nn.parameter: Buffer Parameter UninitializedBuffer UninitializedParameter
torch.nn.utils.spectral_norm: SpectralNorm
torch.nn.utils.weight_norm: WeightNorm
torch.serialization: _get_layout
torch.storage: TypedStorage UntypedStorage
""",
    "torchvision": """
torchvision.models._utils: IntermediateLayerGetter
torchvision.models.alexnet: AlexNet
torchvision.models.convnext: CNBlock ConvNeXt LayerNorm2d
torchvision.models.densenet: DenseNet _DenseBlock _DenseLayer _Transition
torchvision.models.detection._utils: SSDMatcher
torchvision.models.detection.anchor_utils: AnchorGenerator DefaultBoxGenerator
torchvision.models.detection.backbone_utils: BackboneWithFPN
torchvision.models.detection.faster_rcnn: FastRCNNConvFCHead FastRCNNPredictor FasterRCNN TwoMLPHead
torchvision.models.detection.fcos: FCOS FCOSClassificationHead FCOSHead FCOSRegressionHead
torchvision.models.detection.generalized_rcnn: GeneralizedRCNN
torchvision.models.detection.keypoint_rcnn: KeypointRCNN KeypointRCNNHeads KeypointRCNNPredictor
torchvision.models.detection.mask_rcnn: MaskRCNN MaskRCNNHeads MaskRCNNPredictor
torchvision.models.detection.retinanet: RetinaNet RetinaNetClassificationHead RetinaNetHead RetinaNetRegressionHead
torchvision.models.detection.roi_heads: RoIHeads
torchvision.models.detection.rpn: RPNHead RegionProposalNetwork
torchvision.models.detection.ssd: SSD SSDClassificationHead SSDFeatureExtractorVGG SSDHead SSDRegressionHead
    SSDScoringHead
torchvision.models.detection.ssdlite: SSDLiteClassificationHead SSDLiteFeatureExtractorMobileNet SSDLiteHead
    SSDLiteRegressionHead
torchvision.models.detection.transform: GeneralizedRCNNTransform
torchvision.models.efficientnet: EfficientNet FusedMBConv FusedMBConvConfig MBConv MBConvConfig
torchvision.models.googlenet: BasicConv2d GoogLeNet Inception InceptionAux
torchvision.models.inception: BasicConv2d Inception3 InceptionA InceptionAux InceptionB InceptionC InceptionD
    InceptionE
torchvision.models.maxvit: MBConv MaxVit MaxVitBlock MaxVitLayer PartitionAttentionLayer
    RelativePositionalMultiHeadAttention SwapAxes WindowDepartition WindowPartition
torchvision.models.mnasnet: MNASNet _InvertedResidual
torchvision.models.mobilenetv2: InvertedResidual MobileNetV2
torchvision.models.mobilenetv3: InvertedResidual MobileNetV3
torchvision.models.optical_flow.raft: BottleneckBlock ConvGRU CorrBlock FeatureEncoder FlowHead MaskPredictor
    MotionEncoder RAFT RecurrentBlock ResidualBlock UpdateBlock
torchvision.models.regnet: AnyStage BottleneckTransform RegNet ResBottleneckBlock SimpleStemIN
torchvision.models.resnet: BasicBlock Bottleneck ResNet
torchvision.models.segmentation._utils: _SimpleSegmentationModel
torchvision.models.segmentation.deeplabv3: ASPP ASPPConv ASPPPooling DeepLabHead DeepLabV3
torchvision.models.segmentation.fcn: FCN FCNHead
torchvision.models.segmentation.lraspp: LRASPP LRASPPHead
torchvision.models.shufflenetv2: InvertedResidual ShuffleNetV2
torchvision.models.squeezenet: Fire SqueezeNet
torchvision.models.swin_transformer: PatchMerging PatchMergingV2 ShiftedWindowAttention ShiftedWindowAttentionV2
    SwinTransformer SwinTransformerBlock SwinTransformerBlockV2
torchvision.models.vgg: VGG
torchvision.models.video.mvit: MViT MultiscaleAttention MultiscaleBlock Pool PositionalEncoding
torchvision.models.video.resnet: BasicBlock BasicStem Bottleneck Conv2Plus1D Conv3DNoTemporal Conv3DSimple
    R2Plus1dStem VideoResNet
torchvision.models.video.s3d: S3D SepInceptionBlock3D TemporalSeparableConv
torchvision.models.video.swin_transformer: PatchEmbed3d ShiftedWindowAttention3d SwinTransformer3d
torchvision.models.vision_transformer: ConvStemConfig Encoder EncoderBlock MLPBlock VisionTransformer
torchvision.ops.misc: Conv2dNormActivation Conv3dNormActivation ConvNormActivation FrozenBatchNorm2d MLP Permute
    SqueezeExcitation
torchvision.ops.stochastic_depth: StochasticDepth
""",
}


def _names(lists: str) -> set[tuple[str, str]]:
    """Return the pairs of module and name in one library's lines."""
    rows = lists.replace("\n    ", " ").split("\n")
    split = [row.partition(":") for row in rows if row]
    return {(module, name) for module, _, names in split for name in names.split()}


ALLOWED = frozenset().union(*map(_names, _LISTS.values()))
"""Pairs of module and name."""
